import type { Registry } from "@bufbuild/protobuf";
import type { ConnectError } from "@connectrpc/connect";
import {
  codeToHttpStatus,
  errorToJsonBytes,
  parseTimeout,
} from "@connectrpc/connect/protocol-connect";
import type { Hit } from "../endpoint.ts";
import {
  discardBody,
  endResponse,
  type HttpRequest,
  type HttpResponse,
  headerOf,
  isGone,
} from "../http-message.ts";
import { bodyBytesMax } from "../read-body.ts";
import {
  asBytes,
  codecsOf,
  decompress,
  jsonOptions,
  negotiateCompression,
  rpcOptions,
  timeoutMsMax,
  tooLarge,
} from "./codec.ts";
import {
  sendHeaders,
  sendTrailersAsHeaders,
  shownError,
  UnaryCall,
  type UnaryMethod,
} from "./invoke.ts";
import { collect } from "./read.ts";

const compressionNames = { encoding: "content-encoding", accept: "accept-encoding" };

/** Serve a unary method over Connect, by POST. The codec is the one of the request's Content-Type. */
export function connectUnary(
  unary: UnaryMethod,
  registry: Registry,
): (hit: Hit, format: "proto" | "json") => Promise<void> {
  const codecs = codecsOf(unary.method, registry);
  const errorOptions = jsonOptions(registry);

  return async (hit, format) => {
    const { request, response } = hit;
    const codec = codecs[format];
    const timeout = parseTimeout(headerOf(request, "connect-timeout-ms") ?? null, timeoutMsMax);
    const { timeoutMs } = timeout;
    const call = new UnaryCall(unary, hit, timeoutMs);
    const compression = negotiateCompression(request, compressionNames);
    let body: string | Uint8Array;
    let error: ConnectError | undefined;
    try {
      await call.admit();
      const problem = compression.error ?? timeout.error;
      if (problem !== undefined) {
        throw problem;
      }
      const sent = await readBody(request, response);
      const message = codec.input.parse(
        compression.request === null ? sent : await decompress(compression.request, sent),
      );
      const answer = await call.invoke(message);
      body = codec.text?.(answer) ?? codec.output.serialize(answer);
    } catch (thrown) {
      error = shownError(thrown);
      body = errorToJsonBytes(error, errorOptions);
    } finally {
      call.close();
    }
    const size = Buffer.byteLength(body);
    const packing = size < rpcOptions.compressMinBytes ? null : compression.response;
    if (packing !== null) {
      body = await packing.compress(Buffer.from(body));
    }
    if (isGone(response)) {
      return;
    }
    sendHeaders(call, response, error);
    sendTrailersAsHeaders(call, response);
    if (packing !== null) {
      response.setHeader("content-encoding", packing.name);
    }
    response.setHeader("content-type", `application/${error === undefined ? format : "json"}`);
    response.setHeader("content-length", packing === null ? size : body.length);
    if (error !== undefined) {
      response.statusCode = codeToHttpStatus(error.code);
    }
    endResponse(response, body);
    if (error !== undefined) {
      discardBody(request);
    }
  };
}

async function readBody(request: HttpRequest, response: HttpResponse) {
  const length = Number(headerOf(request, "content-length"));
  if (length > bodyBytesMax) {
    throw tooLarge(length);
  }
  return asBytes(
    await collect({ request, response }, (size) => (size > bodyBytesMax ? tooLarge() : undefined)),
  );
}
