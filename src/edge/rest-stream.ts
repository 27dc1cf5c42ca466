import {
  beginReply,
  breakOff,
  endResponse,
  type HttpRequest,
  type HttpResponse,
  headerOf,
  isGone,
  writeChunk,
} from "./http-message.ts";
import { sandboxHeaders } from "./rest/active-content.ts";
import type { Encoding } from "./rest/encoding.ts";
import type { StreamFormat } from "./rest/media-type.ts";
import { createSink, type StreamSink } from "./stream-sink.ts";

/** Where a stream goes. */
export interface StreamTarget {
  readonly request: HttpRequest;
  readonly response: HttpResponse;
  /** Ends the stream: its deadline is over, or the server stops. */
  readonly signal: AbortSignal;
  /** Called before the reply begins, to set its headers. */
  readonly begin: () => void;
  /** What the handler wants to say at the end. Sent to clients that take trailers. */
  readonly trailer: Headers;
}

/** How long a reply waits for its first message, so that an error until then can be its status. */
const firstMs = 1_000;
const keepAliveMsDefault = 15_000;

const contentTypes = {
  lines: "application/x-ndjson",
  array: "application/json",
  events: "text/event-stream",
} satisfies Record<StreamFormat, string>;

/**
 * Write texts as a stream. An error before the reply has begun is thrown. Later it is the last element
 * of the stream, `{"error":…}` on a line of its own or an event of the type "error"; an array is broken
 * off, since one that ends would pass for a whole one.
 */
export async function sendStream(
  target: StreamTarget,
  {
    texts,
    format,
    encoding,
    errorText,
    keepAliveMs = keepAliveMsDefault,
  }: {
    texts: AsyncIterable<string>;
    format: StreamFormat;
    /** How the reply is compressed, each text for itself. */
    encoding?: Encoding | undefined;
    errorText: (error: unknown) => string;
    /** How often a quiet stream of events shows that it is there. */
    keepAliveMs?: number;
  },
): Promise<void> {
  const { request, response, signal } = target;
  const iterator = texts[Symbol.asyncIterator]();
  let next = nextUntil(iterator, signal);
  await settlesWithin(next, firstMs);
  begin(target, { "content-type": contentTypes[format], "cache-control": "no-store" });
  if (format === "events") {
    response.setHeader("x-accel-buffering", "no");
  }
  if (encoding !== undefined) {
    response.setHeader("content-encoding", encoding);
  }
  if (request.method === "HEAD") {
    leave(iterator);
    endResponse(response);
    return;
  }
  beginReply(response);
  const writer = createWriter(response, {
    format,
    keepAliveMs,
    sink: createSink(response, encoding),
  });
  try {
    for (let item = await next; item.done !== true && !isGone(response); item = await next) {
      await writer.write(item.value);
      next = nextUntil(iterator, signal);
    }
    sendTrailers(target);
    writer.end();
  } catch (error) {
    writer.fail(() => errorText(error));
  } finally {
    writer.stop();
    leave(iterator);
  }
}

function createWriter(
  response: HttpResponse,
  { format, keepAliveMs, sink }: { format: StreamFormat; keepAliveMs: number; sink: StreamSink },
) {
  let isWriting = false;
  let count = 0;
  const frames = {
    lines: (text: string) => `${text}\n`,
    array: (text: string) => `${count === 0 ? "[" : ","}${text}`,
    events: (text: string) => `data: ${text}\n\n`,
  } satisfies Record<StreamFormat, (text: string) => string>;
  // A client that does not read what there is needs no more.
  const keepAlive = () => isWriting || isGone(response) || void write(": keep-alive\n\n");
  const timer = format === "events" ? setInterval(keepAlive, keepAliveMs) : undefined;
  async function write(chunk: string): Promise<void> {
    isWriting = true;
    await sink.write(chunk);
    isWriting = false;
  }
  return {
    async write(text: string) {
      await write(frames[format](text));
      count++;
    },
    end() {
      sink.end(format === "array" ? (count === 0 ? "[]" : "]") : undefined);
    },
    fail(errorText: () => string) {
      if (format === "array") {
        breakOff(response);
      } else {
        const text = errorText();
        const last =
          format === "events" ? `event: error\ndata: ${text}\n\n` : `{"error":${text}}\n`;
        sink.end(last);
      }
    },
    stop: () => clearInterval(timer),
  };
}

/**
 * Write bytes as they come, under the content type of the first part. An error before it is thrown,
 * later it breaks the reply off.
 */
export async function sendBytes(
  target: StreamTarget,
  parts: AsyncIterable<{ contentType: string; data: Uint8Array }>,
): Promise<void> {
  const { request, response, signal } = target;
  const iterator = parts[Symbol.asyncIterator]();
  let item = await nextUntil(iterator, signal);
  const contentType = item.done === true ? "application/octet-stream" : item.value.contentType;
  begin(target, { "content-type": contentType, ...sandboxHeaders(contentType) });
  if (request.method === "HEAD") {
    leave(iterator);
    endResponse(response);
    return;
  }
  beginReply(response);
  try {
    while (item.done !== true && !isGone(response)) {
      await writeChunk(response, item.value.data);
      item = await nextUntil(iterator, signal);
    }
    sendTrailers(target);
    endResponse(response);
  } catch {
    breakOff(response);
  } finally {
    leave(iterator);
  }
}

function begin({ begin: copy, response }: StreamTarget, headers: Record<string, string>): void {
  copy();
  response.statusCode = 200;
  for (const name in headers) {
    response.setHeader(name, headers[name] ?? "");
  }
}

// Without "TE: trailers" an intermediary may drop them, and a client need not look.
function sendTrailers({ request, response, trailer }: StreamTarget): void {
  const takesTrailers = /(?:^|,)\s*trailers\s*(?:,|;|$)/i.test(headerOf(request, "te") ?? "");
  if (takesTrailers && !isGone(response)) {
    response.addTrailers(Object.fromEntries(trailer));
  }
}

/** The next item. Rejects with the signal's reason, however long the handler takes no notice of it. */
function nextUntil<T>(iterator: AsyncIterator<T>, signal: AbortSignal): Promise<IteratorResult<T>> {
  const { promise, resolve, reject } = Promise.withResolvers<IteratorResult<T>>();
  const onAbort = () => reject(signal.reason);
  if (signal.aborted) {
    onAbort();
    return promise;
  }
  signal.addEventListener("abort", onAbort);
  iterator
    .next()
    .then(resolve, reject)
    .finally(() => signal.removeEventListener("abort", onAbort));
  return promise;
}

// Not awaited: a handler that waits for something of its own ends when its signal says so.
function leave(iterator: AsyncIterator<unknown>): void {
  iterator.return?.().catch(() => {});
}

async function settlesWithin(promise: Promise<unknown>, ms: number): Promise<void> {
  // What becomes of it later is for whoever awaits it.
  promise.catch(() => {});
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  try {
    await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
