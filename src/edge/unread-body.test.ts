import { once } from "node:events";
import { connect } from "node:http2";
import { connect as connectTcp } from "node:net";
import { expect, test } from "vitest";
import { startEdge } from "../../test/support/edge.ts";

// A message that is too large is refused before it has arrived. The status must still come, as
// trailers, and the stream must end, or its bytes would count against the session for ever.
test.each([
  ["GetBook", "application/grpc"],
  ["ImportBooks", "application/grpc"],
  ["ImportBooks", "application/grpc-web"],
  ["ImportBooks", "application/connect+proto"],
])("%s refuses a message too large over %s and ends the stream", async (method, contentType) => {
  await using edge = await startEdge();
  const session = connect(edge.url);
  const size = 4 * 1024 * 1024 + 1;
  const head = Buffer.alloc(5);
  head.writeUInt32BE(size, 1);

  const stream = session.request({
    ":method": "POST",
    ":path": `/callora.test.v1.LibraryService/${method}`,
    "content-type": contentType,
  });
  const trailers: unknown[] = [];
  const chunks: Buffer[] = [];
  stream.on("trailers", (received) => trailers.push(received["grpc-status"]));
  stream.on("data", (chunk: Buffer) => chunks.push(chunk));
  stream.write(head);
  stream.end(Buffer.alloc(size));
  await once(stream, "close");
  session.destroy();

  const told = `${trailers}${Buffer.concat(chunks)}`;
  expect(stream.rstCode).toBe(0);
  expect(told).toMatch(/^8|grpc-status: 8|resource_exhausted/);
});

/** A request of one message that is too large, all of it. */
function tooLarge(method: string, contentType: string): Buffer {
  const size = 4 * 1024 * 1024 + 10;
  const head = Buffer.alloc(5);
  head.writeUInt32BE(size, 1);
  const lines = [
    `POST /callora.test.v1.LibraryService/${method} HTTP/1.1`,
    "host: localhost",
    `content-type: ${contentType}`,
    `content-length: ${size + 5}`,
  ];
  return Buffer.concat([Buffer.from(`${lines.join("\r\n")}\r\n\r\n`), head, Buffer.alloc(size)]);
}

test.each([
  ["GetBook", "application/grpc-web+proto"],
  ["ImportBooks", "application/grpc-web+proto"],
  ["ImportBooks", "application/connect+proto"],
])(
  "%s refuses a message too large over HTTP/1.1, %s, and serves the next request",
  async (method, contentType) => {
    await using edge = await startEdge();
    const socket = connectTcp({ port: edge.port, host: "127.0.0.1" });
    let text = "";
    socket.setEncoding("latin1").on("data", (chunk: string) => {
      text += chunk;
    });

    for (let sent = 0; sent < 3; sent++) {
      socket.write(tooLarge(method, contentType));
    }
    socket.write("GET /nowhere HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    await once(socket, "close");

    expect(text.match(/HTTP\/1\.1 \d+/g)).toEqual([
      ...Array(3).fill("HTTP/1.1 200"),
      "HTTP/1.1 404",
    ]);
  },
);
