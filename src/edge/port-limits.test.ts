import { once } from "node:events";
import { connect as connectHttp2, sensitiveHeaders } from "node:http2";
import { connect as connectTcp } from "node:net";
import type { Duplex } from "node:stream";
import { expect, test } from "vitest";
import { mount, startEdge } from "../../test/support/edge.ts";
import { identity } from "../../test/support/identity.ts";
import { connectRaw, frame, getBlock, types } from "../../test/support/raw-http2.ts";
import { openPolicy } from "../rpc/policy.ts";
import { endResponse } from "./http-message.ts";
import type { RawMount } from "./mount.ts";

const calm = 0xb;
const endHeaders = 4;
const endStream = 1;

test("streams that are opened and reset without end close the connection, after a bounded number", async () => {
  let served = 0;
  await using at = await startEdge({
    mounts: [
      mount("GET", "/", {
        handler: () => {
          served++;
          return new Promise(() => {});
        },
      }),
    ],
  });
  const client = await connectRaw(at.port);
  const cancel = Buffer.from([0, 0, 0, 8]);

  const sent = await client.flood((index) => {
    const stream = 2 * index + 1;
    const open = frame(types.headers, endHeaders | endStream, stream, getBlock);
    return Buffer.concat([open, frame(types.reset, 0, stream, cancel)]);
  }, 20_000);

  expect(sent).toBeGreaterThan(0);
  expect(served).toBeGreaterThan(0);
  expect(served).toBeLessThanOrEqual(300);
  expect((await fetch(`${at.url}/v1/books/b1`)).status).toBe(200);
});

test("headers that are continued without end close the connection", async () => {
  await using at = await startEdge();
  const client = await connectRaw(at.port);
  client.socket.write(frame(types.headers, endStream, 1, getBlock));
  const field = Buffer.concat([Buffer.from([0, 1, 0x61, 0x7f, 0x81, 7]), Buffer.alloc(1024, 0x61)]);

  const sent = await client.flood(() => frame(types.continuation, 0, 1, field), 5_000);

  expect(sent).toBeLessThan(5_000);
  expect(at.finished).toEqual([]);
});

test.for([
  { what: "PING", one: frame(types.ping, 0, 0, Buffer.alloc(8)) },
  { what: "SETTINGS", one: frame(types.settings, 0, 0, Buffer.from([0, 3, 0, 0, 0, 9])) },
  { what: "PING", one: frame(types.ping, 0, 0, Buffer.alloc(8)), tls: identity },
])("$what frames without end close the connection", async ({ one, tls }) => {
  await using at = await startEdge({ tls });
  const client = await connectRaw(at.port, tls && { ca: tls.cert });

  await client.flood(() => one, 50_000);
  await client.closed;

  // The kernel may drop it, when it closes a connection with bytes that nobody has read.
  expect([calm, undefined]).toContain(client.goawayCode());
  const answers = client.frames.filter(({ type }) => type === one[3]).length;
  expect(answers).toBeLessThan(300);
});

test("a client that measures its bandwidth by PINGs during a download is left alone", async () => {
  const chunk = Buffer.alloc(64 * 1024);
  await using at = await startEdge({
    mounts: [
      mount("GET", "/large", {
        handler: async (_request, response) => {
          for (let index = 0; index < 300; index++) {
            if (!(response as unknown as NodeJS.WritableStream).write(chunk)) {
              await once(response as unknown as NodeJS.EventEmitter, "drain");
            }
          }
          endResponse(response);
        },
      }),
    ],
  });
  const session = connectHttp2(at.url);
  const stream = session.request({ ":path": "/large" });
  let size = 0;
  let pings = 0;
  stream.on("data", (data: Buffer) => {
    size += data.length;
    session.ping(() => pings++);
  });

  await once(stream, "end");

  expect(size).toBe(300 * chunk.length);
  expect(pings).toBeGreaterThan(100);
  session.close();
});

test("over HTTP/2 a body that never ends is given up on, one of a stream of messages is not", async () => {
  const limits = { requestTimeoutMs: 60, headersTimeoutMs: 60, checkIntervalMs: 20 };
  await using at = await startEdge({ limits });
  const session = connectHttp2(at.url);
  const post = (path: string, type: string) => {
    const headers = { ":method": "POST", ":path": path, "content-type": type };
    const stream = session.request(headers);
    stream.on("error", () => {});
    return stream;
  };
  const service = "/callora.test.v1.LibraryService";
  const streaming = post(`${service}/ImportBooks`, "application/connect+json");
  const slow = post("/v1/books", "application/json");
  slow.write("{");
  const grpc = post(`${service}/GetBook`, "application/grpc");
  grpc.write(Buffer.alloc(2));

  const [[reply]] = await Promise.all([once(slow, "response"), once(grpc, "close")]);
  streaming.end(Buffer.concat([envelope(0, '{"book":{}}')]));
  const chunks = await streaming.setEncoding("utf8").toArray();

  expect(reply[":status"]).toBe(408);
  expect(grpc.rstCode).toBe(8);
  expect(chunks.join("")).toContain('"count":1');
  session.close();
});

test.for(["HTTP/1.1", "HTTP/2"])(
  "over %s a raw route says itself how long a body may take, what was answered does not",
  async (version) => {
    const raw: RawMount = {
      method: "POST",
      pattern: "/raw/{what}",
      policy: openPolicy,
      raw(arrival, { bindings }) {
        const end = () => arrival.reply(200, ["content-length", "2"], Buffer.from("ok"));
        if (bindings[0] === "early") {
          end();
          arrival.discard();
        } else {
          arrival.body.on("data", () => {}).on("end", end);
        }
      },
      onShutdown() {},
    };
    const limits = { requestTimeoutMs: 60, headersTimeoutMs: 60, checkIntervalMs: 20 };
    await using at = await startEdge({ limits, mounts: [raw] });
    const session = connectHttp2(at.url);
    const post = (what: string): Duplex => {
      if (version === "HTTP/2") {
        const stream = session.request({ ":method": "POST", ":path": `/raw/${what}` });
        stream.write("a");
        return stream;
      }
      const socket = connectTcp({ port: at.port, host: "127.0.0.1" });
      const lines = [`POST /raw/${what} HTTP/1.1`, "host: x", "content-length: 2", "", "a"];
      socket.write(lines.join("\r\n"));
      return socket;
    };

    const early = post("early");
    const slow = post("slow");
    if (version === "HTTP/1.1") {
      await once(early.resume(), "close");
    }
    await new Promise((resolve) => setTimeout(resolve, 300));
    if (version === "HTTP/1.1") {
      slow.write("b");
    } else {
      slow.end("b");
    }
    const [chunk] = await once(slow.setEncoding("utf8"), "data");

    expect(chunk).toContain("ok");
    slow.destroy();
    session.destroy();
  },
);

function envelope(flags: number, text: string): Buffer {
  const head = Buffer.alloc(5);
  head[0] = flags;
  head.writeUInt32BE(text.length, 1);
  return Buffer.concat([head, Buffer.from(text)]);
}

test("over HTTP/2 a quiet reply to a whole request is not given up on", async () => {
  const finish = Promise.withResolvers<void>();
  await using at = await startEdge({
    limits: { requestTimeoutMs: 40, headersTimeoutMs: 40, checkIntervalMs: 20 },
    mounts: [
      mount("POST", "/slow", {
        handler: async (_request, response) => {
          await finish.promise;
          endResponse(response, "whole");
        },
      }),
    ],
  });
  const session = connectHttp2(at.url);
  const quiet = session.request({ ":method": "POST", ":path": "/slow" });
  quiet.end("unread");
  const slow = session.request({ ":method": "POST", ":path": "/v1/books" });
  slow.on("error", () => {});

  // By then both have been looked at, and the one with half a body is cut.
  await once(slow.resume(), "close");
  finish.resolve();

  expect((await quiet.setEncoding("utf8").toArray()).join("")).toBe("whole");
  session.close();
});

test("an HTTP/1.1 body that never ends, and a connection kept alive too long, are closed", async () => {
  const limits = {
    requestTimeoutMs: 100,
    headersTimeoutMs: 100,
    keepAliveTimeoutMs: 30,
    checkIntervalMs: 20,
  };
  await using at = await startEdge({ limits });
  const slow = connectTcp(at.port, "127.0.0.1");
  const head = "POST /v1/books HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n";
  slow.write(`${head}content-length: 9\r\n\r\n{`);
  const idle = connectTcp(at.port, "127.0.0.1");
  idle.write("GET /v1/books/b1 HTTP/1.1\r\nhost: a\r\n\r\n");

  const [slowReply, idleReply] = await Promise.all([
    slow.setEncoding("utf8").toArray(),
    idle.setEncoding("utf8").toArray(),
  ]);

  expect(slowReply.join("")).toMatch(/^HTTP\/1\.1 408/);
  expect(idleReply.join("")).toMatch(/^HTTP\/1\.1 200/);
});

test("an upload over HTTP/2 may have 1 MiB under way before the server has read any of it", async () => {
  const finish = Promise.withResolvers<void>();
  await using at = await startEdge({
    mounts: [
      mount("POST", "/upload", {
        handler: async (_request, response) => {
          await finish.promise;
          endResponse(response, "done");
        },
      }),
    ],
  });
  const client = await connectRaw(at.port);
  const block = Buffer.concat([
    Buffer.from([0x83, 0x86, 0x44, 7]),
    Buffer.from("/upload"),
    Buffer.from([0x41, 1, 0x61]),
  ]);
  const isAcknowledged = () => client.frames.filter(({ type }) => type === types.settings);
  await expect.poll(isAcknowledged).toHaveLength(2);
  client.socket.write(frame(types.headers, endHeaders, 1, block));
  const part = frame(types.data, 0, 1, Buffer.alloc(16 * 1024));
  for (let sent = 0; sent < 1024 * 1024; sent += 16 * 1024) {
    client.socket.write(part);
  }
  client.socket.write(frame(types.ping, 0, 0, Buffer.alloc(8)));
  await expect.poll(() => client.frames.some(({ type }) => type === types.ping)).toBe(true);
  finish.resolve();

  // Neither refused by flow control, nor asked to wait.
  await expect.poll(() => client.frames.some(({ type }) => type === types.headers)).toBe(true);
  expect(client.goawayCode()).toBeUndefined();
  client.socket.destroy();
});

test("credentials in a reply over HTTP/2 are kept out of its compression", async () => {
  await using at = await startEdge({
    mounts: [
      mount("GET", "/login", {
        handler: (_request, response) => {
          response.setHeader("set-cookie", ["session=1", "other=2"]);
          response.setHeader("x-plain", "1");
          endResponse(response, "in");
        },
      }),
      mount("GET", "/head", {
        handler: (_request, response) => {
          (response as import("node:http").ServerResponse).writeHead(200, { "set-cookie": "a=1" });
          endResponse(response, "in");
        },
      }),
    ],
  });
  const session = connectHttp2(at.url);
  const headersOf = async (path: string) => {
    const [headers] = await once(session.request({ ":path": path }).resume(), "response");
    return headers;
  };

  const login = await headersOf("/login");
  const head = await headersOf("/head");
  session.close();

  expect(login["set-cookie"]).toEqual(["session=1", "other=2"]);
  expect(new Set(login[sensitiveHeaders])).toEqual(new Set(["set-cookie"]));
  expect(head[sensitiveHeaders]).toEqual(["set-cookie"]);
});
