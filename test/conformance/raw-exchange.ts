import { request as http1Request } from "node:http";
import { connect, constants } from "node:http2";
import { HTTPVersion as Version } from "../gen/connectrpc/conformance/v1/config_pb.ts";
import type { Setup } from "./suites.ts";

/** An HTTP request as it stands. */
export interface RawRequest {
  readonly method: string;
  readonly path: string;
  readonly headers: readonly (readonly [name: string, value: string])[];
  readonly body: Buffer;
}

/** A whole HTTP response. */
export interface RawReply {
  readonly status: number;
  readonly headers: Headers;
  readonly trailers: Headers;
  readonly body: Buffer;
}

/** Send one request on a connection of its own. */
export function exchange(
  baseUrl: string,
  { version }: Setup,
  request: RawRequest,
  signal: AbortSignal,
): Promise<RawReply> {
  const send = version === Version.HTTP_VERSION_1 ? exchangeHttp1 : exchangeHttp2;
  return send(baseUrl, request, signal);
}

async function exchangeHttp1(
  baseUrl: string,
  { method, path, headers, body }: RawRequest,
  signal: AbortSignal,
): Promise<RawReply> {
  const { promise, resolve, reject } = Promise.withResolvers<RawReply>();
  const request = http1Request(new URL(path, baseUrl), { method, signal, agent: false });
  for (const [name, value] of headers) {
    request.appendHeader(name, value);
  }
  request.on("error", reject);
  request.on("response", (response) => {
    const chunks: Buffer[] = [];
    response.on("data", (chunk: Buffer) => chunks.push(chunk));
    response.on("error", reject);
    response.on("end", () => {
      resolve({
        status: response.statusCode ?? 0,
        headers: toHeaders(response.headers),
        trailers: toHeaders(response.trailers),
        body: Buffer.concat(chunks),
      });
    });
  });
  request.end(body);
  return promise;
}

async function exchangeHttp2(
  baseUrl: string,
  { method, path, headers, body }: RawRequest,
  signal: AbortSignal,
): Promise<RawReply> {
  const { promise, resolve, reject } = Promise.withResolvers<RawReply>();
  const session = connect(baseUrl);
  session.on("error", reject);
  const head: Record<string, string[] | string> = { ":method": method, ":path": path };
  for (const [name, value] of headers) {
    head[name] = value;
  }
  const stream = session.request(head, { signal, endStream: body.length === 0 });
  const chunks: Buffer[] = [];
  let status = 0;
  let replyHeaders = new Headers();
  let trailers = new Headers();
  stream.on("response", (received) => {
    status = Number(received[constants.HTTP2_HEADER_STATUS]);
    replyHeaders = toHeaders(received);
  });
  stream.on("trailers", (received) => {
    trailers = toHeaders(received);
  });
  stream.on("data", (chunk: Buffer) => chunks.push(chunk));
  stream.on("error", reject);
  stream.on("end", () => {
    resolve({ status, headers: replyHeaders, trailers, body: Buffer.concat(chunks) });
  });
  if (body.length > 0) {
    stream.end(body);
  }
  try {
    return await promise;
  } finally {
    session.destroy();
  }
}

function toHeaders(received: Readonly<Record<string, unknown>>): Headers {
  const headers = new Headers();
  for (const [name, value] of Object.entries(received)) {
    if (!name.startsWith(":")) {
      headers.set(name, Array.isArray(value) ? value.join(", ") : String(value));
    }
  }
  return headers;
}
