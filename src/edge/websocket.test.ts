import { once } from "node:events";
import { connect as connectHttp2 } from "node:http2";
import { connect as connectTcp } from "node:net";
import { Code, ConnectError } from "@connectrpc/connect";
import { expect, onTestFinished, test } from "vitest";
import { WebSocket } from "ws";
import { Access, RateClass } from "../../gen/callora/policy/v1/policy_pb.ts";
import { clubEntry } from "../../test/support/club.ts";
import { noSteps, startEdge } from "../../test/support/edge.ts";
import { identity } from "../../test/support/identity.ts";
import { endless, open } from "../../test/support/socket.ts";
import { notFound, unauthenticated, unavailable } from "../rpc/errors.ts";
import { openPolicy } from "../rpc/policy.ts";
import { createEdge } from "./server.ts";

const listen = "callora.test.v1.ClubService/Listen";
const sockets = [{ path: "/ws/clubs/{club}", rpc: listen }];
const forUsers = { ...openPolicy, access: Access.USER };

type Options = Parameters<typeof startEdge>[0] & { methods?: Parameters<typeof clubEntry>[0] };

async function start({ methods = {}, ...options }: Options = {}) {
  const at = await startEdge({
    services: [clubEntry(methods)],
    halfDuplex: ["callora.test.v1.ClubService/Discuss"],
    sockets,
    ...options,
  });
  onTestFinished(() => at.edge.close({ graceMs: 0 }));
  return at;
}

test("each response is a text of JSON, path and query make the request, the end is 1000", async () => {
  const at = await start();

  const { socket, texts, ended } = open(`${at.url}/ws/clubs/c1?count=2`);
  const [upgrade] = await once(socket, "upgrade");

  expect(await ended).toEqual({ code: 1000, reason: "" });
  expect(texts).toEqual(['{"word":"w0"}', '{"word":"w1"}']);
  expect(upgrade.headers["x-request-id"]).toMatch(/^[0-9a-f-]{36}$/);
  expect(upgrade.headers["sec-websocket-extensions"]).toBeUndefined();
  await expect.poll(() => at.finished).toHaveLength(1);
  expect(at.finished[0]).toMatchObject({
    route: listen,
    statusCode: 101,
    protocol: "websocket",
  });
});

test("over TLS it works the same", async () => {
  const at = await start({ tls: identity });

  const { texts, ended } = open(`${at.url}/ws/clubs/c1?count=1`, [], { ca: identity.cert });

  expect((await ended).code).toBe(1000);
  expect(texts).toHaveLength(1);
});

test.for([
  {
    how: "as a protocol",
    protocols: ["callora.v1", "bearer.user"],
    headers: {},
    echoed: "callora.v1",
  },
  { how: "as a header", protocols: [], headers: { authorization: "Bearer user" }, echoed: "" },
])("a token is taken $how, and never sent back", async ({ protocols, headers, echoed }) => {
  const at = await start({ services: [clubEntry({}, forUsers)] });

  const { socket, ended } = open(`${at.url}/ws/clubs/c1?count=1`, protocols, { headers });

  expect((await ended).code).toBe(1000);
  expect(socket.protocol).toBe(echoed);
});

test("Node's own client, which checks as browsers do, gets in by protocol", async () => {
  const at = await start({ services: [clubEntry({}, forUsers)] });
  const url = `${at.url.replace("http", "ws")}/ws/clubs/c1?count=1`;
  const socket = new globalThis.WebSocket(url, ["callora.v1", "bearer.user"]);

  const { data } = await new Promise<MessageEvent>((resolve, reject) => {
    socket.addEventListener("message", resolve);
    socket.addEventListener("error", reject);
  });

  expect(data).toBe('{"word":"w0"}');
  expect(socket.protocol).toBe("callora.v1");
  socket.close();
});

const own = { origin: "http://127.0.0.1" };
const refused: [string, Parameters<typeof open>[1], Record<string, string>, string, number][] = [
  ["a stranger", [], {}, "/ws/clubs/c1", 401],
  ["a wrong token", ["callora.v1", "bearer.nobody"], {}, "/ws/clubs/c1", 401],
  ["a protocol that is not spoken", ["graphql-ws"], {}, "/ws/clubs/c1", 400],
  ["two tokens", ["callora.v1", "bearer.user", "bearer.admin"], {}, "/ws/clubs/c1", 400],
  [
    "an origin that is not ours",
    ["callora.v1", "bearer.user"],
    { origin: "https://evil.example" },
    "/ws/clubs/c1",
    403,
  ],
  ["our host on another port", ["callora.v1", "bearer.user"], own, "/ws/clubs/c1", 403],
  ["no origin at all", ["callora.v1", "bearer.user"], { origin: "null" }, "/ws/clubs/c1", 403],
  ["a query that does not fit", ["callora.v1", "bearer.user"], {}, "/ws/clubs/c1?count=x", 400],
  ["another path", [], {}, "/v1/clubs/c1:listen", 400],
  ["the root", [], {}, "/", 400],
];

test.for(refused)("%s is refused in plain HTTP, before the upgrade", async (entry) => {
  const [, protocols, headers, path, status] = entry;
  const at = await start({ services: [clubEntry({}, forUsers)] });

  const { ended } = open(at.url + path, protocols, { headers });

  const { code, reason } = await ended;
  expect(code).toBe(status);
  expect(JSON.parse(reason)).toMatchObject({ message: expect.any(String) });
  await expect.poll(() => at.finished.at(-1)?.statusCode).toBe(status);
});

test("pages of our own origin and of those that are allowed get in", async () => {
  const at = await start({ corsOrigins: ["https://console.example"] });

  for (const origin of [at.url, at.url.replace("http:", "https:"), "https://console.example"]) {
    const { ended } = open(`${at.url}/ws/clubs/c1?count=1`, [], { origin });
    expect((await ended).code).toBe(1000);
  }
});

test("without an upgrade there is 426, over HTTP/2 too, and for an old version what would do", async () => {
  const at = await start();

  const http1 = await fetch(`${at.url}/ws/clubs/c1`);
  const session = connectHttp2(at.url);
  const [http2] = await once(session.request({ ":path": "/ws/clubs/c1" }), "response");
  session.close();
  const old = await raw(at.port, "GET /ws/clubs/c1 HTTP/1.1", [
    "sec-websocket-version: 8",
    "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
  ]);
  const keyless = await raw(at.port, "GET /ws/clubs/c1 HTTP/1.1", ["sec-websocket-version: 13"]);

  expect(http1.status).toBe(426);
  expect(http1.headers.get("upgrade")).toBe("websocket");
  expect(http2[":status"]).toBe(426);
  expect(old).toMatch(/^HTTP\/1\.1 426 [\s\S]*sec-websocket-version: 13/i);
  expect(keyless).toMatch(/^HTTP\/1\.1 400 /);
});

test("an offer of HTTP/2 in the clear is left alone", async () => {
  const at = await start();

  const reply = await raw(at.port, "GET /v1/clubs/c1:listen HTTP/1.1", ["upgrade: h2c"], "close");

  expect(reply).toMatch(/^HTTP\/1\.1 200/);
});

/** Send one request for an upgrade by hand, and read until the server closes. */
async function raw(port: number, line: string, headers: string[], connection = "upgrade") {
  const socket = connectTcp(port, "127.0.0.1");
  const upgrade = headers.some((header) => header.startsWith("upgrade"))
    ? []
    : ["upgrade: websocket"];
  const named = connection === "upgrade" ? "connection: upgrade" : "connection: upgrade, close";
  socket.write([line, "host: a", named, ...upgrade, ...headers, "", ""].join("\r\n"));
  return (await socket.setEncoding("utf8").toArray()).join("");
}

test.for([
  { what: "a known failure", error: notFound("club"), code: 1008, status: 5 },
  { what: "a failure that may pass", error: unavailable("BUSY", "later"), code: 1013, status: 14 },
  { what: "a credential that does not do", error: unauthenticated(), code: 4401, status: 16 },
  { what: "a crash", error: new Error("secret"), code: 1011, status: 13 },
])("$what is the last text, and closes with $code", async ({ error, code, status }) => {
  const at = await start({
    methods: {
      async *listen() {
        yield { word: "first" };
        throw error;
      },
    },
  });

  const { texts, ended } = open(`${at.url}/ws/clubs/c1`);

  expect((await ended).code).toBe(code);
  expect(texts).toHaveLength(2);
  expect(JSON.parse(texts[1] ?? "").error).toMatchObject({ code: status });
  expect(texts.join("")).not.toContain("secret");
});

test("a client that leaves ends the handler, and its place is free again", async () => {
  const club = endless();
  const at = await start({
    methods: { listen: club.listen },
    socketLimits: { connectionsPerCallerMax: 1 },
  });
  const first = open(`${at.url}/ws/clubs/c1`);
  await once(first.socket, "message");

  const second = open(`${at.url}/ws/clubs/c1`);
  const refusal = await second.ended;
  first.socket.close();
  await club.left;
  await expect.poll(() => at.finished).toHaveLength(2);
  const third = open(`${at.url}/ws/clubs/c1`);
  await once(third.socket, "message");

  expect(refusal.code).toBe(429);
  expect(refusal.reason).toContain("TOO_MANY_CONNECTIONS");
});

test("what a client sends is not taken: 1008 for a message, 1009 for a large one", async () => {
  const at = await start({ methods: { listen: endless().listen } });
  const chatty = open(`${at.url}/ws/clubs/c1`);
  const heavy = open(`${at.url}/ws/clubs/c1`);
  await Promise.all([once(chatty.socket, "message"), once(heavy.socket, "message")]);

  chatty.socket.send("hello");
  heavy.socket.send(Buffer.alloc(65 * 1024));

  expect((await chatty.ended).code).toBe(1008);
  expect((await heavy.ended).code).toBe(1009);
});

test("a credential that does not count any more closes the connection with 4401", async () => {
  let isRevoked = false;
  let looks = 0;
  const steps = {
    ...noSteps,
    admit: async () => {
      looks++;
      if (isRevoked) {
        throw unauthenticated();
      }
    },
  };
  const club = endless();
  const at = await start({
    methods: { listen: club.listen },
    steps,
    socketLimits: { recheckIntervalMs: 10 },
  });
  const { ended } = open(`${at.url}/ws/clubs/c1`);
  await expect.poll(() => looks).toBeGreaterThan(3);

  isRevoked = true;

  expect((await ended).code).toBe(4401);
  await club.left;
});

test("a credential that cannot be checked for long closes with 1011, not at once", async () => {
  let looks = 0;
  const admit = async () => {
    if (++looks > 1) {
      throw new ConnectError("no database", Code.Unavailable);
    }
  };
  const at = await start({
    methods: { listen: endless().listen },
    steps: { ...noSteps, admit },
    socketLimits: { recheckIntervalMs: 5, recheckFailuresMax: 3 },
  });

  const { ended } = open(`${at.url}/ws/clubs/c1`);

  expect((await ended).code).toBe(1011);
  expect(looks).toBe(5);
});

test("a client that answers pings stays, one that does not is dropped", async () => {
  const club = endless();
  const at = await start({
    methods: { listen: club.listen },
    socketLimits: { pingIntervalMs: 10, pongTimeoutMs: 2_000 },
  });
  const alive = open(`${at.url}/ws/clubs/c1`);
  const dead = open(`${at.url}/ws/clubs/c1`, [], { autoPong: false });
  let pings = 0;
  alive.socket.on("ping", () => pings++);

  expect((await dead.ended).code).toBe(1006);
  const before = pings;
  await expect.poll(() => pings).toBeGreaterThan(before + 2);
  expect(alive.socket.readyState).toBe(WebSocket.OPEN);
});

test("a client that does not take what is sent is closed, and the handler did not run ahead", async () => {
  let given = 0;
  const word = "w".repeat(256 * 1024);
  const ended = Promise.withResolvers<void>();
  const at = await start({
    methods: {
      async *listen() {
        try {
          for (; given < 1_000; given++) {
            yield { word };
          }
        } finally {
          ended.resolve();
        }
      },
    },
    socketLimits: { bufferedBytesMax: 64 * 1024, pongTimeoutMs: 200 },
  });
  const { socket } = open(`${at.url}/ws/clubs/c1`);
  await once(socket, "open");
  socket.pause();

  await ended.promise;
  await expect.poll(() => at.finished).toHaveLength(1);

  expect(given).toBeGreaterThan(0);
  expect(given).toBeLessThan(500);
});

test("a client that takes all gets all, however much there is at once", async () => {
  const word = "w".repeat(64 * 1024);
  const at = await start({
    methods: {
      async *listen() {
        for (let index = 0; index < 300; index++) {
          yield { word };
        }
      },
    },
    socketLimits: { bufferedBytesMax: 64 * 1024 },
  });

  const { texts, ended } = open(`${at.url}/ws/clubs/c1`);

  expect((await ended).code).toBe(1000);
  expect(texts).toHaveLength(300);
});

test("a server that stops says so with 1001, and takes no more", async () => {
  const club = endless();
  const at = await start({ methods: { listen: club.listen } });
  const { socket, ended } = open(`${at.url}/ws/clubs/c1`);
  await once(socket, "message");

  await Promise.all([at.edge.close({ graceMs: 60_000 }), club.left]);

  expect((await ended).code).toBe(1001);
});

test.for([
  { rpc: "callora.test.v1.ClubService/Vote", reason: /must stream its responses alone/ },
  { rpc: "callora.test.v1.ClubService/Nothing", reason: /there is no such RPC/ },
])("a route to $rpc stops the start", ({ rpc, reason }) => {
  const quiet = { steps: noSteps, onFinish: () => {}, onError: () => {} };
  const halfDuplex = ["callora.test.v1.ClubService/Discuss"];
  const options = {
    ...quiet,
    services: [clubEntry()],
    halfDuplex,
    sockets: [{ path: "/ws", rpc }],
  };

  expect(() => createEdge(options)).toThrow(reason);
});

test("routes lists it with its policy, and its limit counts", async () => {
  const policy = { ...forUsers, rateClass: RateClass.CONSOLE };
  const at = await start({ services: [clubEntry({}, policy)] });

  const { socket } = open(`${at.url}/ws/clubs/c1`, ["callora.v1", "bearer.user"]);
  const [upgrade] = await once(socket, "upgrade");

  expect(upgrade.headers["x-ratelimit-limit"]).toBe("60");
  expect(at.edge.routes()).toContainEqual({
    method: "GET",
    path: "/ws/clubs/{club}",
    rpc: listen,
    access: "USER",
    rateClass: "CONSOLE",
  });
});
