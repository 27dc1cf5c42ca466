import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { request as requestHttp1 } from "node:http";
import { connect as connectHttp2 } from "node:http2";
import { connect as connectTcp } from "node:net";
import {
  brotliCompressSync,
  createBrotliDecompress,
  createGunzip,
  createZstdDecompress,
  deflateSync,
  gzipSync,
  zstdCompressSync,
} from "node:zlib";
import { afterAll, beforeAll, expect, test } from "vitest";
import { clubEntry } from "../../test/support/club.ts";
import { noSteps, startEdge } from "../../test/support/edge.ts";
import { createEdge } from "./server.ts";

const halfDuplex = ["callora.test.v1.ClubService/Discuss"];

let at: Awaited<ReturnType<typeof startEdge>>;
beforeAll(async () => {
  at = await startEdge({ services: [clubEntry()], halfDuplex });
});
afterAll(async () => {
  await at.edge.close({ graceMs: 0 });
});

const listen = (path: string, accept?: string) =>
  fetch(`${at.url}/v1/clubs/${path}`, accept === undefined ? {} : { headers: { accept } });

const post = (path: string, body: BodyInit, headers: Record<string, string> = {}) =>
  fetch(at.url + path, {
    method: "POST",
    body,
    headers: { "content-type": "application/json", ...headers },
  });

test.for([
  { accept: undefined, type: "application/x-ndjson", text: '{"word":"w0"}\n{"word":"w1"}\n' },
  { accept: "*/*", type: "application/x-ndjson", text: '{"word":"w0"}\n{"word":"w1"}\n' },
  {
    accept: "application/jsonl",
    type: "application/x-ndjson",
    text: '{"word":"w0"}\n{"word":"w1"}\n',
  },
  { accept: "application/json", type: "application/json", text: '[{"word":"w0"},{"word":"w1"}]' },
  {
    accept: "text/event-stream",
    type: "text/event-stream",
    text: 'data: {"word":"w0"}\n\ndata: {"word":"w1"}\n\n',
  },
  {
    accept: "application/json;q=0.5, application/x-ndjson;q=0.9",
    type: "application/x-ndjson",
    text: '{"word":"w0"}\n{"word":"w1"}\n',
  },
])("a stream for those who accept $accept is $type", async ({ accept, type, text }) => {
  const reply = await listen("c1:listen?count=2", accept);

  expect(reply.status).toBe(200);
  expect(reply.headers.get("content-type")).toBe(type);
  expect(reply.headers.get("cache-control")).toBe("no-store");
  expect(reply.headers.get("vary")).toContain("accept");
  expect(reply.headers.get("x-club")).toBe("c1");
  expect(await reply.text()).toBe(text);
});

test("an empty stream as an array is an empty array, and no form at all is 406", async () => {
  const empty = await listen("c1:listen", "application/json");
  const none = await listen("c1:listen", "text/html");

  expect(await empty.json()).toEqual([]);
  expect(none.status).toBe(406);
});

test("an error is an HTTP error before the first message", async () => {
  for (const accept of ["application/json", "text/event-stream", "*/*"]) {
    const reply = await listen("broken:listen", accept);

    expect(reply.status).toBe(500);
    expect(await reply.json()).toMatchObject({ code: 13, message: "internal error" });
  }
});

test("a late error is the last line, the last event, or an array that never ends", async () => {
  const line = await listen("broken:listen?count=1");
  const event = await listen("broken:listen?count=1", "text/event-stream");
  const array = await listen("broken:listen?count=1", "application/json");

  const [first, last = ""] = (await line.text()).trim().split("\n");
  expect(first).toBe('{"word":"w0"}');
  expect(JSON.parse(last).error).toMatchObject({ code: 13, message: "internal error" });
  expect(await event.text()).toMatch(/\n\nevent: error\ndata: \{"code":13.*\}\n\n$/);
  expect(array.status).toBe(200);
  await expect(array.text()).rejects.toThrow();
});

test("over HTTP/2 an array with a late error is reset", async () => {
  const session = connectHttp2(at.url);
  const path = "/v1/clubs/broken:listen?count=1";
  const stream = session.request({ ":path": path, accept: "application/json" });
  stream.on("error", () => {});

  await new Promise((resolve) => stream.resume().once("close", resolve));

  expect(stream.rstCode).toBe(2);
  session.close();
});

test("a deadline ends a stream whose handler takes no notice", async () => {
  const reply = await fetch(`${at.url}/v1/clubs/endless:listen?count=1`, {
    headers: { "x-server-timeout": "1" },
  });

  const last = (await reply.text()).trim().split("\n").at(-1) ?? "";
  expect(JSON.parse(last).error).toMatchObject({ code: 4 });
});

test("trailers follow a stream to those who take them, over both versions", async () => {
  const path = "/v1/clubs/c1:listen?count=1";
  const options = { port: at.port, path, headers: { te: "trailers" } };
  const [http1] = await once(requestHttp1(options).end(), "response");
  await once(http1.resume(), "end");
  const session = connectHttp2(at.url);
  const stream = session.request({ ":path": path, te: "trailers" });
  const [trailers] = await once(stream.resume(), "trailers");
  const [plain] = await once(requestHttp1({ port: at.port, path }).end(), "response");
  await once(plain.resume(), "end");
  session.close();

  expect(http1.trailers).toEqual({ "x-mood": "calm" });
  expect(trailers["x-mood"]).toBe("calm");
  expect(plain.trailers).toEqual({});
});

const encodings = ["gzip", "br", "zstd"] as const;
const unpackers = { gzip: createGunzip, br: createBrotliDecompress, zstd: createZstdDecompress };

test.for(
  encodings.flatMap((encoding) =>
    ["application/x-ndjson", "application/json", "text/event-stream"].flatMap((accept) =>
      [1, 2].map((http) => ({ encoding, accept, http })),
    ),
  ),
)("$accept as $encoding over HTTP/$http comes message by message", async (wanted) => {
  const { encoding, accept, http } = wanted;
  const heard = Promise.withResolvers<void>();
  await using other = await startEdge({
    halfDuplex,
    services: [
      clubEntry({
        async *listen(_request, context) {
          context.responseTrailer.set("x-mood", "calm");
          yield { word: "first" };
          await heard.promise;
          yield { word: "second" };
        },
      }),
    ],
  });
  const path = "/v1/clubs/c1:listen?count=2";
  const headers = { accept, "accept-encoding": encoding, te: "trailers" };
  const session = http === 2 ? connectHttp2(other.url) : undefined;
  const request = session?.request({ ":path": path, ...headers });
  const sent = request ?? requestHttp1({ port: other.port, path, headers }).end();
  const [head] = await once(sent, "response");
  const reply = request ?? head;
  const trailers = request === undefined ? undefined : once(request, "trailers");
  let text = "";
  for await (const part of reply.pipe(unpackers[encoding]())) {
    text += part;
    if (text.includes("first")) {
      heard.resolve();
    }
  }
  session?.close();

  const replyHeaders = request === undefined ? head.headers : head;
  expect(replyHeaders["content-encoding"]).toBe(encoding);
  expect(replyHeaders.vary).toContain("accept-encoding");
  expect(text.match(/first|second/g)).toEqual(["first", "second"]);
  expect(text).toMatch(/[\n\]]$/);
  const [last] = (await trailers) ?? [head.trailers];
  expect(last["x-mood"]).toBe("calm");
});

test.for(encodings)("a late error is the last message of a stream as %s", async (encoding) => {
  const headers = { "accept-encoding": encoding };
  const line = await fetch(`${at.url}/v1/clubs/broken:listen?count=1`, { headers });
  const array = await fetch(`${at.url}/v1/clubs/broken:listen?count=1`, {
    headers: { ...headers, accept: "application/json" },
  });
  const head = await fetch(`${at.url}/v1/clubs/c1:listen?count=1`, { headers, method: "HEAD" });

  expect(await line.text()).toMatch(/^\{"word":"w0"\}\n\{"error":\{"code":13,.*\}\}\n$/);
  await expect(array.text()).rejects.toThrow();
  expect(head.headers.get("content-encoding")).toBe(encoding);
});

test("a client that leaves a compressed stream ends its handler", async () => {
  const left = Promise.withResolvers<void>();
  await using other = await startEdge({
    halfDuplex,
    services: [
      clubEntry({
        async *listen(_request, { signal }) {
          try {
            for (let index = 0; !signal.aborted; index++) {
              yield { word: `${index} ${randomBytes(32 * 1024).toString("base64")}` };
            }
          } finally {
            left.resolve();
          }
        },
      }),
    ],
  });
  const socket = connectTcp(other.port, "127.0.0.1");
  socket.write("GET /v1/clubs/c1:listen HTTP/1.1\r\nhost: a\r\naccept-encoding: zstd\r\n\r\n");
  await once(socket, "readable");
  socket.destroy();

  await left.promise;
});

test.for([undefined, ...encodings])(
  "a reader of %s that stops makes the handler wait",
  async (encoding) => {
    let given = 0;
    await using other = await startEdge({
      halfDuplex,
      services: [
        clubEntry({
          async *listen() {
            for (; given < 2_000; given++) {
              yield { word: randomBytes(48 * 1024).toString("base64") };
            }
          },
        }),
      ],
    });
    const socket = connectTcp(other.port, "127.0.0.1");
    const accept = encoding === undefined ? "" : `accept-encoding: ${encoding}\r\n`;
    socket.write(`GET /v1/clubs/c1:listen HTTP/1.1\r\nhost: a\r\n${accept}\r\n`);
    await once(socket, "readable");
    let before = -1;
    while (before !== given) {
      before = given;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }

    expect(given).toBeLessThan(1_000);
    socket.destroy();
  },
);

const votes = [{ book: "b1", points: 1 }, { book: "b2" }];

test.for([
  {
    format: "an array",
    type: "application/json",
    body: ` [ ${JSON.stringify(votes[0])} ,\n ${JSON.stringify(votes[1])} ] `,
  },
  {
    format: "lines",
    type: "application/x-ndjson",
    body: `${JSON.stringify(votes[0])}\r\n\n${JSON.stringify(votes[1])}`,
  },
])("requests come as $format, and the path counts for the first", async ({ type, body }) => {
  const reply = await post("/v1/clubs/c1:vote", body, { "content-type": type });

  expect(reply.status).toBe(200);
  expect(reply.headers.get("trailer-x-mood")).toBe("calm");
  expect(await reply.json()).toEqual({
    votes: [
      { club: "c1", book: "b1", points: 1 },
      { club: "", book: "b2", points: 0 },
    ],
  });
});

test("one field of each request is an element, and the query counts for the first", async () => {
  const reply = await post("/v1/clubs/c1/books?points=3", '["a,]\\"[", "b"]');

  expect(await reply.json()).toEqual({
    votes: [
      { club: "c1", book: 'a,]"[', points: 3 },
      { club: "", book: "b", points: 0 },
    ],
  });
});

test("requests arrive in the handler as they are sent", async () => {
  const seen: string[] = [];
  const first = Promise.withResolvers<void>();
  await using other = await startEdge({
    halfDuplex,
    services: [
      clubEntry({
        async vote(requests) {
          for await (const { book } of requests) {
            seen.push(book);
            first.resolve();
          }
          return {};
        },
      }),
    ],
  });
  const request = requestHttp1({
    port: other.port,
    method: "POST",
    path: "/v1/clubs/c1:vote",
    headers: { "content-type": "application/json" },
  });
  request.write('[{"book":"b1"},{"bo');
  await first.promise;
  const early = [...seen];
  request.end('ok":"b2"}]');
  const [reply] = await once(request, "response");
  reply.resume();

  expect(early).toEqual(["b1"]);
  expect(reply.statusCode).toBe(200);
  expect(seen).toEqual(["b1", "b2"]);
});

const largeVote = `{"book":"${"b".repeat(5 * 1024 * 1024)}"}`;
const refused: [string, () => Promise<Response>, number][] = [
  ["an object", () => post("/v1/clubs/c1:vote", "{}"), 400],
  ["an array cut short", () => post("/v1/clubs/c1:vote", "[{}"), 400],
  ["an array with something after it", () => post("/v1/clubs/c1:vote", "[{}] {}"), 400],
  ["an array with a gap", () => post("/v1/clubs/c1:vote", "[{},,{}]"), 400],
  ["an element of another type", () => post("/v1/clubs/c1:vote", "[{}, 1]"), 400],
  ["an element that is no JSON", () => post("/v1/clubs/c1:vote", "[{}, {a}]"), 400],
  ["an unknown query key", () => post("/v1/clubs/c1/books?colour=1", "[]"), 400],
  ["another type", () => post("/v1/clubs/c1:vote", "x", { "content-type": "text/csv" }), 415],
  [
    "no type but a cookie",
    () => post("/v1/clubs/c1:vote", "[]", { "content-type": "", cookie: "a=1" }),
    415,
  ],
  [
    "an unknown encoding",
    () => post("/v1/clubs/c1:vote", "[]", { "content-encoding": "lzma" }),
    415,
  ],
  ["what is not gzip", () => post("/v1/clubs/c1:vote", "[]", { "content-encoding": "gzip" }), 400],
  ["too long an element", () => post("/v1/clubs/c1:vote", `[${largeVote}]`), 413],
  [
    "too long a line",
    () => post("/v1/clubs/c1:vote", largeVote, { "content-type": "application/x-ndjson" }),
    413,
  ],
  [
    "an element that is too long once unpacked",
    () => post("/v1/clubs/c1:vote", gzipSync(`[${largeVote}]`), { "content-encoding": "gzip" }),
    413,
  ],
  [
    "too much for half a conversation",
    () => post("/v1/clubs:discuss", `[${`{"word":"${"w".repeat(1024 * 1024)}"},`.repeat(5)}{}]`),
    413,
  ],
  [
    "a malformed deadline",
    () => post("/v1/clubs/c1:vote", "[]", { "grpc-timeout": "1 hour" }),
    400,
  ],
];

test.for(refused)("a stream of requests with %s is refused", async ([, call, status]) => {
  const before = at.errors.length;

  const reply = await call();

  expect(reply.status).toBe(status);
  expect(await reply.json()).toMatchObject({ message: expect.any(String) });
  expect(at.errors.slice(before)).toEqual([]);
});

test.for([
  { encoding: "gzip", compress: gzipSync },
  { encoding: "br", compress: brotliCompressSync },
  { encoding: "zstd", compress: zstdCompressSync },
  { encoding: "deflate", compress: deflateSync },
])("a stream of requests in $encoding is read", async ({ encoding, compress }) => {
  const reply = await post("/v1/clubs/c1:vote", compress(JSON.stringify(votes)), {
    "content-encoding": encoding,
  });

  expect((await reply.json()).votes).toHaveLength(2);
});

test("without opting in a service of which both sides stream stops the start, and is named", () => {
  const quiet = { steps: noSteps, onFinish: () => {}, onError: () => {} };

  expect(() => createEdge({ ...quiet, services: [clubEntry()] })).toThrow(
    /Cannot map callora\.test\.v1\.ClubService\/Discuss to "\/v1\/clubs:discuss": both sides stream/,
  );
});

test("half a conversation gets all requests, then all replies", async () => {
  const reply = await post("/v1/clubs:discuss", '[{"word":"a"},{"word":"b"}]');

  expect(await reply.text()).toBe('{"word":"a!"}\n{"word":"b!"}\n');
});

test("raw bytes go in part by part, their type and path with the first", async () => {
  const put = (body: BodyInit | null) =>
    fetch(`${at.url}/v1/clubs/c1/files/a.bin`, {
      method: "PUT",
      body,
      headers: { "content-type": "application/x-stuff" },
    });

  const large = await (await put(Buffer.alloc(8 * 1024 * 1024))).json();
  const empty = await (await put(null)).json();

  expect(large).toMatchObject({ name: "a.bin", size: String(8 * 1024 * 1024) });
  expect(large.contentTypes.length).toBeGreaterThan(1);
  expect(new Set(large.contentTypes.slice(1))).toEqual(new Set([""]));
  expect(large.contentTypes[0]).toBe("application/x-stuff");
  expect(empty).toEqual({ name: "a.bin", contentTypes: ["application/x-stuff"], size: "0" });
});

test("raw bytes come out as they are, under the type of the first part", async () => {
  const plain = await listen("c1/files/a.txt");
  const image = await listen("c1/files/a.svg");
  const broken = await listen("c1/files/broken");

  expect(plain.headers.get("content-type")).toBe("text/plain");
  expect(plain.headers.get("content-security-policy")).toBeNull();
  expect(await plain.text()).toBe("first,second");
  expect(image.headers.get("content-security-policy")).toContain("sandbox");
  expect(image.headers.get("x-content-type-options")).toBe("nosniff");
  await expect(broken.text()).rejects.toThrow();
});

test("a handler that answers before it has read everything is heard", async () => {
  await using other = await startEdge({
    halfDuplex,
    services: [clubEntry({ vote: async () => ({ votes: [{ club: "early" }] }) })],
  });

  const reply = await fetch(`${other.url}/v1/clubs/c1:vote`, {
    method: "POST",
    body: `[{"book":"${"b".repeat(1024 * 1024)}"},{}]`,
    headers: { "content-type": "application/json" },
  });

  expect(await reply.json()).toMatchObject({ votes: [{ club: "early" }] });
});
