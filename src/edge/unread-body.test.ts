import { once } from "node:events";
import { connect } from "node:http2";
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
