import { once } from "node:events";
import { createServer as createHttpServer, type RequestListener } from "node:http";
import { type AddressInfo, createServer as createTcpServer } from "node:net";
import { Dispatcher } from "undici";
import { expect, onTestFinished, test } from "vitest";
import { type AddressPolicy, createAddressPolicy } from "../lib/address.ts";
import { AddressRefusedError, type Resolve, rememberAnswers } from "./connect.ts";
import { createUpstreams, type Target, type UpstreamDeps } from "./upstream.ts";

const anywhere: AddressPolicy = { allows: () => true };
const publicOnly = createAddressPolicy({ allowedRanges: [], ownPorts: () => [] });

function startUpstreams(change: Partial<UpstreamDeps> = {}) {
  const clock = { ms: 0 };
  const upstreams = createUpstreams({
    addresses: anywhere,
    connectionsMax: 8,
    timeoutMs: 20_000,
    nowMs: () => clock.ms,
    ...change,
  });
  onTestFinished(() => upstreams.close());
  return { upstreams, clock };
}

async function startServer(listener: RequestListener): Promise<number> {
  const server = createHttpServer(listener).listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  return (server.address() as AddressInfo).port;
}

async function call(target: Target | null, path = "/") {
  expect(target?.pool).toBeInstanceOf(Dispatcher);
  const { pool, basePath } = target as Target;
  const { statusCode, headers, body } = await (pool as Dispatcher).request({
    origin: "",
    path: `${basePath}${path}`,
    method: "GET",
  });
  return { status: statusCode, headers, text: await body.text() };
}

const fail = ({ health }: Target) => {
  for (let time = 0; time < 10; time++) {
    health.failed();
  }
};

test("calls are shared by weight, smoothly", () => {
  const { upstreams } = startUpstreams();
  const weights = { a: 5, b: 3, c: 2, spare: 0 };
  const set = upstreams.setOf(
    Object.entries(weights).map(([name, weight]) => ({ url: `http://${name}.example`, weight })),
    "api",
  );

  const hosts = Array.from({ length: 10_000 }, () => set.pick([])?.host ?? "");

  for (const [name, weight] of Object.entries(weights)) {
    const count = hosts.filter((host) => host === `${name}.example`).length;
    expect(Math.abs(count - weight * 1_000)).toBeLessThanOrEqual(weight * 20);
  }
  expect(hosts.slice(0, 10).join()).not.toContain("a.example,a.example,a.example");
});

test("one that was tried is not picked again, and the one without a weight is the last", () => {
  const { upstreams } = startUpstreams();
  const list = [
    { url: "http://spare.example", weight: 0 },
    { url: "http://a.example", weight: 1 },
    { url: "http://b.example", weight: 9 },
  ];
  const set = upstreams.setOf(list, "api");
  const tried: Target[] = [];

  for (let next = set.pick(tried); next !== null; next = set.pick(tried)) {
    expect(set.hasOther(tried)).toBe(true);
    tried.push(next);
  }

  expect(tried.map(({ host }) => host)).toEqual(["b.example", "a.example", "spare.example"]);
  expect(set.hasOther(tried)).toBe(false);
});

test("who fails is not called; with nobody left there is none, until a probe may go", () => {
  const { upstreams, clock } = startUpstreams();
  const list = ["a", "b"].map((name) => ({ url: `http://${name}.example`, weight: 1 }));
  const set = upstreams.setOf(list, "api");
  const [first, second] = [set.pick([]), set.pick([])] as [Target, Target];

  fail(first);
  const others = Array.from({ length: 5 }, () => set.pick([]));
  fail(second);

  expect(new Set(others)).toEqual(new Set([second]));
  expect(upstreams.stats().open).toBe(2);
  expect(set.pick([])).toBeNull();
  expect(set.retryAfterMs).toBe(5_000);
  clock.ms += 5_000;
  expect([set.pick([]), set.pick([]), set.pick([])].filter((one) => one !== null)).toHaveLength(2);
});

test("asking whether there is another one is no probe", () => {
  const { upstreams, clock } = startUpstreams();
  const set = upstreams.setOf([{ url: "http://a.example", weight: 1 }], "api");
  fail(set.pick([]) as Target);
  clock.ms += 5_000;

  expect(set.hasOther([])).toBe(true);

  expect(set.pick([])).not.toBeNull();
});

test("health outlives a change of the API, and is nobody else's", () => {
  const { upstreams } = startUpstreams();
  const list = [{ url: "http://a.example", weight: 1 }];
  fail(upstreams.setOf(list, "api").pick([]) as Target);

  expect(upstreams.setOf(list, "api").pick([])).toBeNull();
  expect(upstreams.setOf(list, "other").pick([])).not.toBeNull();
});

test("calls go to the base path, and owners do not share connections", async () => {
  const paths = new Map<unknown, Set<string>>();
  const port = await startServer((request, response) => {
    const seen = paths.get(request.socket) ?? new Set();
    paths.set(request.socket, seen.add(request.url ?? ""));
    response.end();
  });
  const { upstreams } = startUpstreams();
  const list = [{ url: `http://127.0.0.1:${port}/base/`, weight: 1 }];
  const sets = { one: upstreams.setOf(list, "one"), other: upstreams.setOf(list, "other") };

  for (let time = 0; time < 4; time++) {
    await call(sets.one.pick([]), "/one");
    await call(sets.other.pick([]), "/other");
  }

  const all = [...paths.values()].map((seen) => [...seen]);
  expect(new Set(all.flat())).toEqual(new Set(["/base/one", "/base/other"]));
  expect(all.every((seen) => seen.length === 1)).toBe(true);
  expect(upstreams.stats().pools).toBe(2);
});

test("past a thousand pools the idlest is given up, and its target goes on with another", async () => {
  const port = await startServer((_request, response) => response.end("still here"));
  const { upstreams, clock } = startUpstreams();
  const first = upstreams.setOf([{ url: `http://127.0.0.1:${port}`, weight: 1 }], "first");
  const target = first.pick([]) as Target;
  const before = target.pool;
  for (let index = 0; index < 1_000; index++) {
    clock.ms += 1;
    const set = upstreams.setOf([{ url: "http://127.0.0.1:9", weight: 1 }], `owner ${index}`);
    expect(set.pick([])?.pool).toBeDefined();
  }

  expect(upstreams.stats().pools).toBe(1_000);
  expect(target.pool).not.toBe(before);
  expect((await call(target)).text).toBe("still here");
});

test("a redirect is passed on, not followed", async () => {
  const secret = await startServer((_request, response) => response.end("secret"));
  const port = await startServer((_request, response) => {
    response.writeHead(302, { location: `http://127.0.0.1:${secret}/` }).end();
  });
  const { upstreams } = startUpstreams();
  const set = upstreams.setOf([{ url: `http://127.0.0.1:${port}`, weight: 1 }], "api");

  const reply = await call(set.pick([]));

  expect(reply).toMatchObject({ status: 302, text: "" });
});

test.for([
  "http://127.0.0.1:9",
  "http://127.1:9",
  "http://0x7f000001:9",
  "http://2130706433:9",
  "http://0177.0.0.1:9",
  "http://0:9",
  "http://10.0.0.1",
  "http://172.16.0.1",
  "http://192.168.0.1",
  "http://169.254.169.254",
  "http://100.64.0.1",
  "http://168.63.129.16",
  "http://[::ffff:168.63.129.16]",
  "http://224.0.0.1",
  "http://[::1]",
  "http://[::]",
  "http://[::ffff:127.0.0.1]",
  "http://[::127.0.0.1]",
  "http://[fe80::1]",
  "http://[fd00::1]",
  "http://[64:ff9b::7f00:1]",
  "http://[2002:7f00:1::]",
  "https://127.0.0.1",
])("nothing is sent to %s", async (url) => {
  const { upstreams } = startUpstreams({ addresses: publicOnly });
  const set = upstreams.setOf([{ url, weight: 1 }], "api");

  await expect(call(set.pick([]))).rejects.toThrow(AddressRefusedError);
});

const answering =
  (...addresses: string[]): Resolve =>
  (_hostname, _options, callback) =>
    callback(
      null,
      addresses.map((address) => ({ address, family: address.includes(":") ? 6 : 4 })),
    );

test.for([
  ["127.0.0.1"],
  ["8.8.8.8", "127.0.0.1"],
  ["169.254.169.254"],
  ["2001:4860:4860::8888", "::1"],
])("a name with the answers %j is refused", async (answers) => {
  const { upstreams } = startUpstreams({
    addresses: publicOnly,
    resolve: answering(...answers),
  });
  const set = upstreams.setOf([{ url: "http://name.example:9", weight: 1 }], "api");

  await expect(call(set.pick([]))).rejects.toThrow(AddressRefusedError);
});

test("a name of this machine is refused, whatever system looks it up", async () => {
  const { upstreams } = startUpstreams({ addresses: publicOnly });
  const set = upstreams.setOf([{ url: "http://localhost:9", weight: 1 }], "api");

  await expect(call(set.pick([]))).rejects.toThrow(AddressRefusedError);
});

test("the address that the socket has is checked too, with its port, before anything is sent", async () => {
  const received: Buffer[] = [];
  const server = createTcpServer((socket) => {
    socket.on("data", (chunk) => received.push(chunk)).on("error", () => {});
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(() => void server.close());
  const { port } = server.address() as AddressInfo;
  const closed = once(server, "connection").then(([socket]) => once(socket.resume(), "close"));
  const { upstreams } = startUpstreams({
    addresses: createAddressPolicy({ allowedRanges: ["127.0.0.0/8"], ownPorts: () => [port] }),
    resolve: answering("127.0.0.1"),
  });
  const set = upstreams.setOf([{ url: `http://name.example:${port}`, weight: 1 }], "api");

  await expect(call(set.pick([]))).rejects.toThrow(AddressRefusedError);

  await closed;
  expect(received).toEqual([]);
});

test("look-ups of a name are one for five seconds; a failure is not remembered", async () => {
  const clock = { ms: 0 };
  let answer: Parameters<Parameters<Resolve>[2]> = [new Error("no such name"), []];
  let asked = 0;
  const resolve = rememberAnswers({
    nowMs: () => clock.ms,
    resolve: (_hostname, _options, callback) => {
      asked += 1;
      setImmediate(() => callback(...answer));
    },
  });
  const ask = () =>
    new Promise((done) =>
      resolve("a.example", { all: true }, (error, found) => done(error ?? found)),
    );

  expect(await Promise.all([ask(), ask()])).toEqual([answer[0], answer[0]]);
  answer = [null, [{ address: "8.8.8.8", family: 4 }]];
  expect(await Promise.all([ask(), ask(), ask()])).toEqual([answer[1], answer[1], answer[1]]);
  clock.ms += 4_999;
  expect(await ask()).toEqual(answer[1]);
  expect(asked).toBe(2);
  clock.ms += 1;
  await ask();
  expect(asked).toBe(3);
});

test("an upstream whose headers do not end is cut off", async () => {
  const server = createTcpServer((socket) => {
    socket.on("error", () => {});
    socket.write("HTTP/1.1 200 OK\r\n");
    const more = setInterval(() => socket.write(`x-a: ${"a".repeat(4_000)}\r\n`), 1);
    socket.on("close", () => clearInterval(more));
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(() => void server.close());
  const { port } = server.address() as AddressInfo;
  const { upstreams } = startUpstreams();
  const set = upstreams.setOf([{ url: `http://127.0.0.1:${port}`, weight: 1 }], "api");

  await expect(call(set.pick([]))).rejects.toMatchObject({ code: "UND_ERR_HEADERS_OVERFLOW" });
});
