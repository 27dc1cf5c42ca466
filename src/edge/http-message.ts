import type { IncomingMessage, ServerResponse } from "node:http";
import type { Http2ServerRequest, Http2ServerResponse } from "node:http2";
import type { Readable } from "node:stream";
import type { Arrival } from "./arrival.ts";
import { errorCodes } from "./http2/codes.ts";

/** A request over HTTP/1.1 or HTTP/2. */
export type HttpRequest = IncomingMessage | Http2ServerRequest;

/** The reply to an HttpRequest. */
export type HttpResponse = ServerResponse | Http2ServerResponse;

/** A whole reply. Header names are in lower case. */
export interface Reply {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string | Uint8Array;
}

/** The request's headers. The pseudo-headers of HTTP/2 are left out. */
export function toHeaders(request: Pick<HttpRequest, "headers">): Headers {
  const headers = new Headers();
  for (const [name, value] of Object.entries(request.headers)) {
    if (value === undefined || name.startsWith(":")) {
      continue;
    }
    for (const one of typeof value === "string" ? [value] : value) {
      headers.append(name, one);
    }
  }
  return headers;
}

/** One header of the request, its first value if it was sent several times. */
export function headerOf(request: Pick<HttpRequest, "headers">, name: string): string | undefined {
  const value = request.headers[name];
  return Array.isArray(value) ? value[0] : value;
}

/** Send a whole reply; to HEAD without its body. What the client still sends is not waited for. */
export function sendReply(arrival: Arrival, { status, headers, body }: Reply): void {
  if (arrival.isGone || arrival.headersSent) {
    return;
  }
  if (status === 204 || status === 304) {
    arrival.send(status, headers, undefined);
    return;
  }
  arrival.setHeader("content-length", String(Buffer.byteLength(body)));
  arrival.send(status, headers, arrival.method === "HEAD" ? undefined : body);
  arrival.discard();
}

/** Send the headers now, before there is a body. */
export function beginReply(response: HttpResponse): void {
  (response as ServerResponse).flushHeaders();
}

/** Write a part of a body. Resolves once more may be written, or the client is gone. */
export async function writeChunk(
  response: HttpResponse,
  chunk: string | Uint8Array,
): Promise<void> {
  if (isGone(response) || (response as ServerResponse).write(chunk)) {
    return;
  }
  await new Promise<void>((resolve) => {
    const settle = () => {
      response.off("drain", settle);
      response.off("close", settle);
      resolve();
    };
    response.once("drain", settle);
    response.once("close", settle);
  });
}

/** End the reply, with a last part of the body if there is one. */
export function endResponse(response: HttpResponse, chunk?: string | Uint8Array): void {
  // The two classes take the same arguments, but their overloads do not unite.
  (response as ServerResponse).end(chunk);
}

/** Whether nobody can read the reply any more. */
export function isGone(response: HttpResponse): boolean {
  return "stream" in response ? response.stream.destroyed : response.destroyed;
}

/**
 * Whether the client broke the request off. Over HTTP/2 Node shows that as an ordinary end of the
 * body, so whoever reads one to its end must ask.
 */
export function isCutOff(request: HttpRequest): boolean {
  return "stream" in request && (request.stream.aborted || request.stream.rstCode !== 0);
}

/** Copy the headers of a call to the reply, their names after a prefix. */
export function copyHeaders(from: Headers, arrival: Arrival, prefix = ""): void {
  from.forEach((value, name) => {
    if (name !== "set-cookie") {
      arrival.setHeader(prefix + name, value);
    }
  });
  const cookies = from.getSetCookie();
  if (cookies.length > 0) {
    arrival.setHeader(`${prefix}set-cookie`, cookies);
  }
}

/** Break the reply off so that the client cannot take it for a whole one. */
export function breakOff(response: HttpResponse): void {
  if ("stream" in response) {
    response.stream.close(errorCodes.internalError);
  } else {
    response.destroy();
  }
}

/** Bytes of a body that are dropped before its stream is reset. */
const discardedBytesMax = 16 * 1024 * 1024;

/**
 * Have no more of the body once the reply has ended: what still comes is dropped, up to a limit.
 *
 * Over HTTP/1.1 Node does so itself where nothing of the body was read. To close at once would make the kernel reset
 * the connection before the client has read the reply. Over HTTP/2 a reset would overtake the trailers, and bytes that
 * nobody reads would count against the session for ever.
 */
export function discardBody(request: HttpRequest, response: HttpResponse): void {
  if (!("stream" in request)) {
    response.once("finish", () => {
      // A reader that stopped in the middle would keep it from flowing.
      request.removeAllListeners("readable");
      drop(request, () => request.socket.destroySoon());
    });
    return;
  }
  if (request.complete || request.stream.destroyed) {
    return;
  }
  const { stream } = request;
  stream.once("finish", () => {
    if (request.complete && !request.destroyed) {
      return;
    }
    // Node's own listener would pause the stream, since nobody reads the request.
    stream.removeAllListeners("data");
    drop(stream, () => stream.close(errorCodes.noError));
  });
}

/** Read and forget. */
function drop(body: Readable, onTooMuch: () => void): void {
  let left = discardedBytesMax;
  body.on("data", (chunk: Buffer) => {
    left -= chunk.length;
    if (left < 0) {
      onTooMuch();
    }
  });
  body.resume();
}
