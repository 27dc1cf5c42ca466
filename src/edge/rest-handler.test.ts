import { brotliCompressSync, deflateSync, gzipSync } from "node:zlib";
import { afterAll, beforeAll, expect, test } from "vitest";
import { startEdge } from "../../test/support/edge.ts";

let at: Awaited<ReturnType<typeof startEdge>>;
beforeAll(async () => {
  at = await startEdge();
});
afterAll(async () => {
  await at.edge.close({ graceMs: 0 });
});

function send(method: string, path: string, init: RequestInit = {}): Promise<Response> {
  return fetch(at.url + path, { method, ...init });
}

function post(path: string, body: BodyInit, headers: Record<string, string> = {}) {
  return send("POST", path, {
    body,
    headers: { "content-type": "application/json", ...headers },
  });
}

test("a GET binds the path, shows fields that are zero, and brings headers and trailers", async () => {
  const reply = await send("GET", "/v1/books/b1");

  expect(reply.status).toBe(200);
  expect(await reply.json()).toMatchObject({ book: { title: "Momo", pages: "0", lent: false } });
  expect(reply.headers.get("content-type")).toBe("application/json");
  expect(reply.headers.get("x-shelf")).toBe("7");
  expect(reply.headers.get("trailer-x-mood")).toBe("calm");
  expect(reply.headers.get("x-protocol")).toBe("rest");
});

test("path, query and body reach the message", async () => {
  const several = await send("GET", "/v1/shelves/7/books/8%2F9");
  const queried = await send("GET", "/v1/books?page_size=2");
  const patched = await send("PATCH", "/v1/books/b9", {
    body: '{"title":"Krabat","id":"b1"}',
    headers: { "content-type": "application/json; charset=UTF-8" },
  });

  expect(await several.json()).toMatchObject({ book: { title: "shelves/7/books/8%2F9" } });
  expect((await queried.json()).books).toHaveLength(2);
  expect(await patched.json()).toMatchObject({ book: { id: "b9", title: "Krabat" } });
});

test("raw bytes pass in and out under their own type", async () => {
  const put = await send("PUT", "/v1/files/a/b.txt", {
    body: "12345",
    headers: { "content-type": "text/plain" },
  });
  const got = await send("GET", "/v1/files/a/b.txt", { headers: { accept: "text/plain" } });

  expect(await put.json()).toEqual({ size: "5" });
  expect(got.headers.get("content-type")).toBe("text/plain");
  expect(await got.text()).toBe("a/b.txt");
});

test("the policy's success status is the reply's", async () => {
  const reply = await post("/api/apis", JSON.stringify(anApi), { authorization: "Bearer admin" });

  expect(reply.status).toBe(201);
});

const anApi = { name: "Maps", slug: "maps", upstreamUrl: "https://maps.example/v1" };

const refused: [string, () => Promise<Response>, { status: number; code: number }][] = [
  ["an unknown path", () => send("GET", "/v9/nothing"), { status: 404, code: 5 }],
  ["an unknown book", () => send("GET", "/v1/books/b2"), { status: 404, code: 5 }],
  ["a broken escape", () => send("GET", "/v1/books/%zz"), { status: 400, code: 3 }],
  ["another method", () => send("PATCH", "/v1/books"), { status: 405, code: 12 }],
  ["an unknown query key", () => send("GET", "/v1/books?colour=1"), { status: 400, code: 3 }],
  ["a bad query value", () => send("GET", "/v1/books?page_size=x"), { status: 400, code: 3 }],
  ["a body that is no JSON", () => post("/v1/books", "{"), { status: 400, code: 3 }],
  [
    "a body of another type",
    () => post("/v1/books", "<a/>", { "content-type": "text/xml" }),
    { status: 415, code: 3 },
  ],
  [
    "an unknown encoding",
    () => post("/v1/books", "{}", { "content-encoding": "lzma" }),
    { status: 415, code: 3 },
  ],
  [
    "a body that is not gzip",
    () => post("/v1/books", "{}", { "content-encoding": "gzip" }),
    { status: 400, code: 3 },
  ],
  [
    "a form that the server does not write",
    () => send("GET", "/v1/books/b1", { headers: { accept: "text/html" } }),
    { status: 406, code: 3 },
  ],
  ["a path too long", () => send("GET", `/v1/${"a".repeat(9000)}`), { status: 414, code: 3 }],
  ["a stranger", () => post("/api/apis", JSON.stringify(anApi)), { status: 401, code: 16 }],
  [
    "too low a role",
    () => post("/api/apis", JSON.stringify(anApi), { authorization: "Bearer user" }),
    { status: 403, code: 7 },
  ],
  [
    "a message that breaks the contract",
    () => post("/api/apis", '{"name":""}', { authorization: "Bearer admin" }),
    { status: 400, code: 3 },
  ],
  ["a stream that is no array", () => post("/v1/books:import", "{}"), { status: 400, code: 3 }],
  ["a call that is too early", () => send("GET", "/v1/books/busy"), { status: 503, code: 14 }],
  ["a crash", () => send("GET", "/v1/books/crash"), { status: 500, code: 13 }],
];

test.for(refused)("%s is answered with a Status", async ([, call, { status, code }]) => {
  const reply = await call();

  expect(reply.status).toBe(status);
  expect(reply.headers.get("content-type")).toBe("application/json");
  expect(reply.headers.get("x-request-id")).toMatch(/^[0-9a-f-]{36}$/);
  expect(reply.headers.get("x-content-type-options")).toBe("nosniff");
  expect(await reply.json()).toMatchObject({ code, message: expect.any(String) });
});

test("refusals say in their headers what would do", async () => {
  const busy = await send("GET", "/v1/books/busy");
  const method = await send("PATCH", "/v1/books");
  const stranger = await post("/api/apis", JSON.stringify(anApi));

  expect(busy.headers.get("retry-after")).toBe("2");
  expect(method.headers.get("allow")).toBe("GET, HEAD, OPTIONS, POST");
  expect(stranger.headers.get("www-authenticate")).toBe("Bearer");
});

test("a crash is reported, and its message is not told", async () => {
  const before = at.errors.length;

  const reply = await send("GET", "/v1/books/crash");

  expect((await reply.json()).message).toBe("internal error");
  expect(at.errors).toHaveLength(before + 1);
});

test("a refused change is written down", async () => {
  const before = at.refusals.length;

  await post("/api/apis", JSON.stringify(anApi));

  expect(at.refusals.slice(before)).toEqual(["callora.catalog.v1.CatalogService/CreateApi"]);
});

test("an unknown JSON field is refused by name, with a reason", async () => {
  const reply = await post("/v1/books", '{"book":{"colour":"red"}}');

  const { message, details } = await reply.json();
  expect(reply.status).toBe(400);
  expect(message).toContain("book.colour");
  expect(details).toMatchObject([
    { "@type": "type.googleapis.com/google.rpc.ErrorInfo", reason: "REQUEST_INVALID" },
    {
      "@type": "type.googleapis.com/google.rpc.BadRequest",
      fieldViolations: [{ field: "book.colour" }],
    },
    {
      "@type": "type.googleapis.com/google.rpc.RequestInfo",
      requestId: reply.headers.get("x-request-id"),
    },
  ]);
});

test("a problem is sent to those who ask for one", async () => {
  const accept = "application/problem+json";

  const reply = await send("GET", "/v1/books/b2", { headers: { accept } });

  expect(reply.headers.get("content-type")).toBe(accept);
  expect(await reply.json()).toMatchObject({ status: 404, code: "NOT_FOUND", title: "Not Found" });
});

test("HEAD answers as GET without the body, OPTIONS lists the methods", async () => {
  const get = await send("GET", "/v1/books/b1");
  const head = await send("HEAD", "/v1/books/b1");
  const options = await send("OPTIONS", "/v1/books/b1");

  expect(head.status).toBe(200);
  expect(head.headers.get("content-length")).toBe(String((await get.arrayBuffer()).byteLength));
  expect(await head.text()).toBe("");
  expect([options.status, options.headers.get("allow")]).toEqual([
    204,
    "DELETE, GET, HEAD, OPTIONS, PATCH",
  ]);
});

test.for([
  { encoding: "gzip", compress: gzipSync },
  { encoding: "br", compress: brotliCompressSync },
  { encoding: "deflate", compress: deflateSync },
])("a body in $encoding is read, and bounded once unpacked", async ({ encoding, compress }) => {
  const headers = { "content-encoding": encoding };
  const large = JSON.stringify({ requestId: "a".repeat(5 * 1024 * 1024) });

  const small = await post("/v1/books", compress('{"book":{"title":"Momo"}}'), headers);
  const bomb = await post("/v1/books", compress(large), headers);

  expect(await small.json()).toMatchObject({ title: "Momo" });
  expect(bomb.status).toBe(413);
});

test("a body of 10 MB is refused while it is sent, and the connection is not lost", async () => {
  const large = "a".repeat(10 * 1024 * 1024);
  let sent = 0;
  const unannounced = new ReadableStream({
    pull(controller) {
      controller.enqueue(new TextEncoder().encode(large.slice(0, 1024 * 1024)));
      if (++sent === 10) {
        controller.close();
      }
    },
  });

  const announced = await post("/v1/books", large);
  const streamed = await send("POST", "/v1/books", {
    body: unannounced,
    duplex: "half",
    headers: { "content-type": "application/json" },
  } as RequestInit);

  expect([announced.status, streamed.status]).toEqual([413, 413]);
  expect(await announced.json()).toMatchObject({ code: 8 });
});

test("a stream is a JSON value a line, or events for those who ask", async () => {
  const lines = await send("GET", "/v1/books:watch?count=2");
  const events = await send("GET", "/v1/books:watch?count=2", {
    headers: { accept: "text/event-stream" },
  });

  expect(lines.headers.get("content-type")).toBe("application/x-ndjson");
  const ids = (await lines.text())
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line).book.id);
  expect(ids).toEqual(["b0", "b1"]);
  expect(events.headers.get("content-type")).toBe("text/event-stream");
  expect(await events.text()).toMatch(/^data: \{"book".*\n\ndata: \{"book".*\n\n$/);
});

test("a stream that fails at first is an HTTP error, later its last element", async () => {
  const first = await send("GET", "/v1/books:watch?count=0");
  const later = await send("GET", "/v1/books:watch?count=-1");
  const event = await send("GET", "/v1/books:watch?count=-1", {
    headers: { accept: "text/event-stream" },
  });

  expect(first.status).toBe(500);
  const last = JSON.parse((await later.text()).trim().split("\n").at(-1) ?? "");
  expect(last.error).toMatchObject({ code: 13, message: "internal error" });
  expect(await event.text()).toMatch(/event: error\ndata: \{"code":13.*\n\n$/);
});

test("every limited reply says its limits, and the one too many when to come again", async () => {
  const read = () => send("GET", "/api/apis", { headers: { authorization: "Bearer super_admin" } });
  const first = await read();

  const replies = await Promise.all(Array.from({ length: 70 }, read));

  const last = replies.find(({ status }) => status === 429);
  expect(first.headers.get("x-ratelimit-limit")).toBe("60");
  expect(last?.headers.get("x-ratelimit-remaining")).toBe("0");
  expect(Number(last?.headers.get("retry-after"))).toBeGreaterThan(0);
});
