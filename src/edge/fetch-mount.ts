import type { Call } from "../rpc/call.ts";
import { copyHeaders, sendReply, toHeaders } from "./http-message.ts";
import type { MountHandler } from "./mount.ts";
import { readBody } from "./read-body.ts";
import { splitTarget } from "./rest/path.ts";

/** Serves a request in the terms of fetch. */
export type FetchHandler = (request: Request, call: Call) => Promise<Response>;

/** Most bytes of a request's body. */
const requestBytesMax = 64 * 1024;

/**
 * Serve a mount by a handler that speaks fetch, over HTTP/1.1 and HTTP/2. Request and reply are held in memory.
 * `origin` is the server's own: what a client says of itself in Host does not count.
 */
export function fetchMount({
  origin,
  serve,
}: {
  origin: () => string;
  serve: FetchHandler;
}): MountHandler {
  return async (_request, _response, { call, arrival }) => {
    const { path, query } = splitTarget(arrival.url);
    const url = `${origin()}${path}${query === "" ? "" : `?${query}`}`;
    const { method } = arrival;
    const headers = toHeaders(arrival);
    const hasNoBody = method === "GET" || method === "HEAD" || !arrival.hasBody;
    const body = hasNoBody ? null : await readBody(arrival, { bytesMax: requestBytesMax });
    // The body is decoded and whole.
    headers.delete("content-encoding");
    headers.delete("content-length");
    headers.delete("transfer-encoding");
    const answer = await serve(new Request(url, { method, headers, body: toBody(body) }), call);
    copyHeaders(answer.headers, arrival);
    const bytes = new Uint8Array(await answer.arrayBuffer());
    sendReply(arrival, { status: answer.status, headers: {}, body: bytes });
  };
}

function toBody(bytes: Uint8Array | null): Uint8Array<ArrayBuffer> | null {
  return bytes === null || bytes.byteLength === 0 ? null : new Uint8Array(bytes);
}
