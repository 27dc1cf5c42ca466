import type { Registry } from "@bufbuild/protobuf";
import type { ConnectError } from "@connectrpc/connect";
import {
  codeToHttpStatus,
  errorToJsonBytes,
  parseTimeout,
} from "@connectrpc/connect/protocol-connect";
import type { Arrival } from "../arrival.ts";
import type { Hit } from "../endpoint.ts";
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
    const { arrival } = hit;
    const codec = codecs[format];
    const timeout = parseTimeout(arrival.header("connect-timeout-ms") ?? null, timeoutMsMax);
    const { timeoutMs } = timeout;
    const call = new UnaryCall(unary, hit, timeoutMs);
    const compression = negotiateCompression(arrival, compressionNames);
    let body: string | Uint8Array;
    let error: ConnectError | undefined;
    try {
      const admitted = call.admit();
      if (admitted !== undefined) {
        await admitted;
      }
      const problem = compression.error ?? timeout.error;
      if (problem !== undefined) {
        throw problem;
      }
      const sent = await readBody(arrival);
      const message = codec.input.parse(
        compression.request === null ? sent : await decompress(compression.request, sent),
      );
      const answering = call.invoke(message);
      const answer = answering instanceof Promise ? await answering : answering;
      body = codec.text?.(answer) ?? codec.binary?.(answer, 0) ?? codec.output.serialize(answer);
    } catch (thrown) {
      error = shownError(call, thrown);
      body = errorToJsonBytes(error, errorOptions);
    } finally {
      call.close();
    }
    const size = Buffer.byteLength(body);
    const packing = size < rpcOptions.compressMinBytes ? null : compression.response;
    if (packing !== null) {
      body = await packing.compress(Buffer.from(body));
    }
    if (arrival.isGone) {
      return;
    }
    sendHeaders(call, arrival, error);
    sendTrailersAsHeaders(call, arrival);
    if (packing !== null) {
      arrival.setHeader("content-encoding", packing.name);
    }
    arrival.setHeader("content-type", `application/${error === undefined ? format : "json"}`);
    arrival.setHeader("content-length", String(packing === null ? size : body.length));
    const status = error === undefined ? 200 : codeToHttpStatus(error.code);
    arrival.send(status, {}, body);
    if (error !== undefined) {
      arrival.discard();
    }
  };
}

async function readBody(arrival: Arrival) {
  const length = Number(arrival.header("content-length"));
  if (length > bodyBytesMax) {
    throw tooLarge(length);
  }
  return asBytes(await collect(arrival, (size) => (size > bodyBytesMax ? tooLarge() : undefined)));
}
