import { connect } from "node:net";
import fc from "fast-check";
import { expect, test } from "vitest";
import { startEdge } from "../../test/support/edge.ts";

// Whatever comes, a connection that its client has ended is closed again within this time.
const closedWithinMs = 8_000;

/** Send the parts one by one, end, and wait until the server closes. */
function send(port: number, parts: readonly Uint8Array[]): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, "127.0.0.1");
    const timer = setTimeout(() => {
      socket.destroy();
      reject(new Error("Cannot end the connection: the server keeps it open"));
    }, closedWithinMs);
    // A reset is an answer too.
    socket.on("error", () => {});
    socket.on("close", () => {
      clearTimeout(timer);
      resolve();
    });
    socket.resume();
    socket.once("connect", () => void writeAll());

    async function writeAll() {
      for (const part of parts) {
        await new Promise<void>((written) => socket.write(part, () => written()));
      }
      socket.end();
    }
  });
}

const anyBytes = fc.uint8Array({ maxLength: 64 });

function cutInParts(bytes: Uint8Array, places: readonly number[]): Uint8Array[] {
  const cuts = [0, ...places.map((place) => place % (bytes.length + 1)), bytes.length];
  const sorted = cuts.sort((a, b) => a - b);
  return sorted.slice(1).map((end, index) => bytes.subarray(sorted[index], end));
}

/** A copy with some bytes replaced. */
function spoil(bytes: Uint8Array, changes: readonly (readonly [number, number])[]): Uint8Array {
  const copy = Uint8Array.from(bytes);
  for (const [place, value] of changes) {
    copy[place % copy.length] = value;
  }
  return copy;
}

const places = fc.array(fc.nat(2000), { maxLength: 4 });
const changes = fc.array(fc.tuple(fc.nat(2000), fc.nat(255)), { maxLength: 3 });

const requestLines = fc.constantFrom(
  "GET /v1/books/b1 HTTP/1.1",
  "POST /v1/books HTTP/1.1",
  "PUT /v1/files/a HTTP/1.0",
  "POST /callora.test.v1.LibraryService/GetBook HTTP/1.1",
  "POST /callora.test.v1.LibraryService/ImportBooks HTTP/1.1",
  "GET http://h/v1/books?page_size=1 HTTP/1.1",
  "OPTIONS * HTTP/1.1",
  "PRI * HTTP/2.0",
);
const headers = fc.subarray([
  "host: h",
  "content-type: application/json",
  "content-type: application/grpc-web+proto",
  "content-type: application/connect+json",
  "content-length: 2",
  "content-length: 9",
  "transfer-encoding: chunked",
  "content-encoding: gzip",
  "expect: 100-continue",
  "connection: upgrade",
  "upgrade: websocket",
  "connect-timeout-ms: 99999999999",
  "accept: \u0000",
]);
const bodies = fc.oneof(
  anyBytes,
  fc.constantFrom("{}", "2\r\n{}\r\n0\r\n\r\n", "ffffffffff\r\n", "\0\0\0\0\u0002{}").map(encode),
);
const http1 = fc
  .tuple(requestLines, headers, bodies)
  .map(([line, lines, body]) =>
    Buffer.concat([encode([line, ...lines, "", ""].join("\r\n")), body]),
  );

const preface = encode("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");

function encode(text: string): Uint8Array {
  return Buffer.from(text, "latin1");
}

/** A frame of HTTP/2. Its length may lie. */
function frameOf(
  type: number,
  flags: number,
  stream: number,
  payload: Uint8Array,
  lie = 0,
): Uint8Array {
  const head = Buffer.alloc(9);
  head.writeUIntBE((payload.length + lie) & 0xff_ff_ff, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
}

// Indexed and literal fields of HPACK: POST, http, a path, a content type.
const headerBlock = Buffer.concat([
  Buffer.from([0x83, 0x86, 0x04, 46]),
  encode("/callora.test.v1.LibraryService/GetBook".padEnd(46, "?")),
  Buffer.from([0x41, 1]),
  encode("h"),
  Buffer.from([0x5f, 16]),
  encode("application/grpc"),
]);
const frame = fc.oneof(
  fc.constantFrom(
    frameOf(4, 0, 0, new Uint8Array()),
    frameOf(4, 1, 0, new Uint8Array()),
    frameOf(1, 0x4, 1, headerBlock),
    frameOf(1, 0x5, 3, headerBlock),
    frameOf(1, 0x0, 5, headerBlock),
    frameOf(9, 0x4, 5, headerBlock),
    frameOf(0, 0x1, 1, Buffer.from([0, 0, 0, 0, 0])),
    frameOf(0, 0x0, 1, Buffer.from([1, 255, 255, 255, 255])),
    frameOf(3, 0, 1, Buffer.from([0, 0, 0, 8])),
    frameOf(6, 0, 0, Buffer.alloc(8)),
    frameOf(7, 0, 0, Buffer.alloc(8)),
    frameOf(8, 0, 0, Buffer.from([127, 255, 255, 255])),
  ),
  fc
    .tuple(fc.nat(12), fc.nat(255), fc.nat(9), anyBytes, fc.constantFrom(0, 0, 0, 1, -1, 70_000))
    .map(([type, flags, stream, payload, lie]) => frameOf(type, flags, stream, payload, lie)),
);
const http2 = fc
  .array(frame, { maxLength: 8 })
  .map((frames) => Buffer.concat([preface, frameOf(4, 0, 0, new Uint8Array()), ...frames]));

test.for([
  ["anything", anyBytes],
  ["HTTP/1.1", http1],
  ["HTTP/2", http2],
] as const)("bytes like %s neither crash nor hang the server", { timeout: 40_000 }, async (row) => {
  const [, bytes] = row;
  await using at = await startEdge({ limits: { sessionIdleTimeoutMs: 1_000 } });
  const property = fc.asyncProperty(bytes, places, changes, async (whole, cuts, spoilt) => {
    const sent = whole.length === 0 ? whole : spoil(whole, spoilt);
    await send(at.port, cutInParts(sent, cuts));
  });

  await fc.assert(property, { numRuns: 150, interruptAfterTimeLimit: 10_000 });

  const reply = await fetch(`${at.url}/v1/books/b1`);
  expect(reply.status).toBe(200);
  expect(at.errors).toEqual([]);
});
