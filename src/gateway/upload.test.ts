import { createServer } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { context, type Span, trace } from "@opentelemetry/api";
import { AsyncLocalStorageContextManager } from "@opentelemetry/context-async-hooks";
import { expect, onTestFinished, test } from "vitest";
import { Http1Arrival } from "../edge/arrival.ts";
import { Upload } from "./upload.ts";

test("a call with a short body is sent within its trace", async () => {
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
  onTestFinished(() => context.disable());
  const sent = Promise.withResolvers<{ expected: Span; active: Span | undefined }>();
  const server = createServer((request, response) => {
    const expected = trace.wrapSpanContext({
      traceId: "1".repeat(32),
      spanId: "2".repeat(16),
      traceFlags: 1,
    });
    const onBody = () => sent.resolve({ expected, active: trace.getActiveSpan() });
    context.with(trace.setSpan(context.active(), expected), () =>
      new Upload(new Http1Arrival(request, response)).prepare({ onBody }),
    );
  });
  const port = await new Promise<number>((resolve) =>
    server.listen(0, "127.0.0.1", () => resolve((server.address() as AddressInfo).port)),
  );
  const socket = connect(port, "127.0.0.1");
  onTestFinished(() => {
    socket.destroy();
    server.close();
  });

  socket.write("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\na");
  setTimeout(() => socket.write("b"), 50);
  const { expected, active } = await sent.promise;

  expect(active).toBe(expected);
});
