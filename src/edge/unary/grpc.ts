import type { Message, Registry } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { type Compression, compressedFlag } from "@connectrpc/connect/protocol";
import { parseTimeout, setTrailerStatus } from "@connectrpc/connect/protocol-grpc";
import type { Hit } from "../endpoint.ts";
import type { Trailers } from "../http2/stream.ts";
import { bodyBytesMax } from "../read-body.ts";
import {
  asBytes,
  type Codec,
  codecsOf,
  decompress,
  negotiateCompression,
  rpcOptions,
  timeoutMsMax,
  tooLarge,
} from "./codec.ts";
import { sendHeaders, shownError, UnaryCall, type UnaryMethod } from "./invoke.ts";
import { collect } from "./read.ts";

const headBytes = 5;

const compressionNames = { encoding: "grpc-encoding", accept: "grpc-accept-encoding" };

/** Serve a unary method over gRPC, on HTTP/2. The codec is the one of the request's Content-Type. */
export function grpcUnary(
  unary: UnaryMethod,
  registry: Registry,
): (hit: Hit, format: "proto" | "json") => Promise<void> {
  const codecs = codecsOf(unary.method, registry);

  return async (hit, format) => {
    const { arrival } = hit;
    const codec = codecs[format];
    const timeout = parseTimeout(arrival.header("grpc-timeout") ?? null, Infinity);
    const timeoutMs =
      timeout.timeoutMs === undefined ? undefined : Math.min(timeout.timeoutMs, timeoutMsMax);
    const call = new UnaryCall(unary, hit, timeoutMs);
    const compression = negotiateCompression(arrival, compressionNames);
    let frame: Buffer | undefined;
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
      const body = await collect(arrival, refuseFrames);
      const message = readPlain(body, codec) ?? (await readOnly(body, codec, compression.request));
      const answering = call.invoke(message);
      const answer = answering instanceof Promise ? await answering : answering;
      frame = frameOf(answer, codec);
      const size = frame.length - headBytes;
      if (compression.response !== null && size >= rpcOptions.compressMinBytes) {
        const bytes = asBytes(frame.subarray(headBytes));
        frame = envelope(await compression.response.compress(bytes), compressedFlag);
      }
    } catch (thrown) {
      error = shownError(call, thrown);
    } finally {
      call.close();
    }
    if (arrival.isGone) {
      return;
    }
    sendHeaders(call, arrival);
    arrival.setHeader("content-type", `application/grpc+${format}`);
    if (compression.response !== null) {
      arrival.setHeader("grpc-encoding", compression.response.name);
    }
    arrival.send(200, {}, frame, trailersOf(call, error));
    if (error !== undefined) {
      arrival.discard();
    }
  };
}

/** The one message of a unary request, as nearly all come: a single frame without compression. */
function readPlain(body: Buffer, { input }: Codec): Message | undefined {
  const isPlain =
    body.length >= headBytes && body[0] === 0 && body.length - headBytes === body.readUInt32BE(1);
  return isPlain ? input.parse(asBytes(body.subarray(headBytes))) : undefined;
}

/** The one message of a unary request. Throws UNIMPLEMENTED if there are none or several. */
async function readOnly(
  body: Buffer,
  { input }: Codec,
  compression: Compression | null,
): Promise<Message> {
  if (body.length === 0) {
    throw new ConnectError(
      "protocol error: missing input message for unary method",
      Code.Unimplemented,
    );
  }
  const first = frameAt(body, 0);
  const message = input.parse(await unpack(first, compression));
  if (first.end < body.length) {
    input.parse(await unpack(frameAt(body, first.end), compression));
    throw extraMessage();
  }
  return message;
}

interface Frame {
  readonly isCompressed: boolean;
  readonly data: Uint8Array;
  readonly end: number;
}

function frameAt(body: Buffer, start: number): Frame {
  const length = start + headBytes <= body.length ? body.readUInt32BE(start + 1) : Infinity;
  if (length !== Infinity && length > bodyBytesMax) {
    throw tooLarge(length);
  }
  const end = start + headBytes + length;
  if (end > body.length) {
    throw new ConnectError("protocol error: incomplete envelope", Code.InvalidArgument);
  }
  const isCompressed = ((body[start] ?? 0) & compressedFlag) === compressedFlag;
  return { isCompressed, data: body.subarray(start + headBytes, end), end };
}

function unpack(
  { isCompressed, data }: Frame,
  compression: Compression | null,
): Uint8Array<ArrayBuffer> | Promise<Uint8Array<ArrayBuffer>> {
  if (!isCompressed) {
    return asBytes(data);
  }
  if (compression === null) {
    throw new ConnectError(
      "received compressed envelope, but do not know how to decompress",
      Code.Internal,
    );
  }
  return decompress(compression, data);
}

/** Turn away early what need not be read to its end. */
function refuseFrames(size: number, head: Buffer): Error | undefined {
  const length = head.length < headBytes ? 0 : head.readUInt32BE(1);
  if (length > bodyBytesMax) {
    return tooLarge(length);
  }
  return size > bodyBytesMax + headBytes ? extraMessage() : undefined;
}

function extraMessage(): ConnectError {
  return new ConnectError(
    "protocol error: received extra input message for unary method",
    Code.Unimplemented,
  );
}

function frameOf(answer: Message, { output, binary }: Codec): Buffer {
  const frame = binary?.(answer, headBytes);
  if (frame === undefined) {
    return envelope(output.serialize(answer), 0);
  }
  frame[0] = 0;
  frame.writeUInt32BE(frame.length - headBytes, 1);
  return frame;
}

function envelope(bytes: Uint8Array, flags: number): Buffer {
  const frame = Buffer.allocUnsafe(headBytes + bytes.byteLength);
  frame[0] = flags;
  frame.writeUInt32BE(bytes.byteLength, 1);
  frame.set(bytes, headBytes);
  return frame;
}

function trailersOf({ context }: UnaryCall, error: ConnectError | undefined): Trailers {
  return error === undefined && context.sentTrailer === undefined
    ? statusOk
    : [...setTrailerStatus(new Headers(context.sentTrailer), error)].flat();
}

const statusOk: Trailers = ["grpc-status", "0"];
