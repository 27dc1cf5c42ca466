import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { expect, onTestFinished, test } from "vitest";
import { negotiateStream, type StreamFormat } from "./rest/media-type.ts";
import { sendStream } from "./rest-stream.ts";

/** Serve texts as a stream, from one server of its own. */
async function serve(
  texts: AsyncIterable<string>,
  { format, keepAliveMs }: { format: StreamFormat; keepAliveMs?: number },
): Promise<Response> {
  const server = createServer((request, response) => {
    const { signal } = new AbortController();
    const target = { request, response, signal, begin: () => {}, trailer: new Headers() };
    const errorText = () => '{"code":13}';
    void sendStream(target, {
      texts,
      format,
      errorText,
      ...(keepAliveMs === undefined ? {} : { keepAliveMs }),
    });
  }).listen(0, "127.0.0.1");
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  await once(server, "listening");
  return fetch(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
}

test("a quiet stream of events shows that it is there, and comments never part an event", async () => {
  const finish = Promise.withResolvers<void>();
  async function* texts() {
    yield '{"a":1}';
    await finish.promise;
    yield '{"a":2}';
  }

  const reply = await serve(texts(), { format: "events", keepAliveMs: 5 });
  let read = "";
  for await (const chunk of reply.body?.pipeThrough(new TextDecoderStream()) ?? []) {
    read += chunk;
    if (read.split(": keep-alive\n\n").length > 3) {
      finish.resolve();
    }
  }

  expect(reply.headers.get("x-accel-buffering")).toBe("no");
  expect(read.replaceAll(": keep-alive\n\n", "")).toBe('data: {"a":1}\n\ndata: {"a":2}\n\n');
});

test("a stream whose first message takes long begins before it, and can fail within", async () => {
  const finish = Promise.withResolvers<void>();
  // biome-ignore lint/correctness/useYield: it fails before its first message.
  async function* texts(): AsyncIterable<string> {
    await finish.promise;
    throw new Error("late");
  }

  const reply = await serve(texts(), { format: "lines" });
  finish.resolve();

  expect(reply.status).toBe(200);
  expect(await reply.text()).toBe('{"error":{"code":13}}\n');
});

test.for([
  [undefined, "lines"],
  ["", "lines"],
  ["*/*", "lines"],
  ["application/*", "lines"],
  ["application/x-ndjson", "lines"],
  ["application/jsonl", "lines"],
  ["application/json", "array"],
  ["application/json, text/plain, */*", "array"],
  ["text/event-stream", "events"],
  ["application/json, text/event-stream", "events"],
  ["text/event-stream;q=0.1, application/json", "array"],
  ["application/json;q=0.1, */*", "lines"],
  ["application/x-ndjson;q=0, */*", "none"],
  ["text/html", "none"],
  ["text/html, */*;q=0", "none"],
  ["application/problem+json", "lines"],
  ["application/problem+json, application/json", "array"],
] as const)("of %j a stream is %s", ([accept, format]) => {
  expect(negotiateStream(accept)).toBe(format);
});
