import {
  beginReply,
  breakOff,
  endResponse,
  type HttpRequest,
  type HttpResponse,
  isGone,
  writeChunk,
} from "./http-message.ts";

/** How a stream of messages is written: a JSON value a line, or server-sent events. */
export type StreamFormat = "ndjson" | "sse";

/** Server-sent events for clients that ask for them, else a JSON value a line. */
export function streamFormatOf(accept: string | undefined): StreamFormat {
  return accept?.toLowerCase().includes("text/event-stream") ? "sse" : "ndjson";
}

const keepAliveMs = 15_000;

/**
 * Write texts as a stream. An error before the first is thrown, after it is the last element of the
 * stream: `{"error":…}` on a line of its own, or an event of the type "error".
 */
export async function sendStream(
  { request, response }: { request: HttpRequest; response: HttpResponse },
  {
    texts,
    format,
    begin,
    errorText,
  }: {
    texts: AsyncIterable<string>;
    format: StreamFormat;
    /** Called before the reply begins, to set its headers. */
    begin: () => void;
    errorText: (error: unknown) => string;
  },
): Promise<void> {
  const iterator = texts[Symbol.asyncIterator]();
  let item = await iterator.next();
  begin();
  response.statusCode = 200;
  response.setHeader("cache-control", "no-store");
  response.setHeader("content-type", contentTypes[format]);
  if (format === "sse") {
    response.setHeader("x-accel-buffering", "no");
  }
  if (request.method === "HEAD") {
    await iterator.return?.();
    endResponse(response);
    return;
  }
  beginReply(response);
  const timer =
    format === "sse"
      ? setInterval(() => void writeChunk(response, ": keep-alive\n\n"), keepAliveMs)
      : undefined;
  try {
    while (item.done !== true && !isGone(response)) {
      await writeChunk(response, format === "sse" ? `data: ${item.value}\n\n` : `${item.value}\n`);
      item = await iterator.next();
    }
    endResponse(response);
  } catch (error) {
    const text = errorText(error);
    endResponse(
      response,
      format === "sse" ? `event: error\ndata: ${text}\n\n` : `{"error":${text}}\n`,
    );
  } finally {
    clearInterval(timer);
    await iterator.return?.();
  }
}

const contentTypes = { ndjson: "application/x-ndjson", sse: "text/event-stream" } as const;

/** Write bytes as they come, under the content type of the first part. */
export async function sendBytes(
  response: HttpResponse,
  parts: AsyncIterable<{ contentType: string; data: Uint8Array }>,
  begin: () => void,
): Promise<void> {
  let begun = false;
  try {
    for await (const { contentType, data } of parts) {
      if (!begun) {
        begin();
        response.statusCode = 200;
        response.setHeader("content-type", contentType);
        begun = true;
      }
      await writeChunk(response, data);
      if (isGone(response)) {
        return;
      }
    }
  } catch (error) {
    if (!begun) {
      throw error;
    }
    breakOff(response);
    return;
  }
  endResponse(response);
}
