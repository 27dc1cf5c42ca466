import { brotliCompressSync, deflateSync, gzipSync, zstdCompressSync } from "node:zlib";
import { fromBinary, type JsonValue, type Message } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { Compression, Protocol, StreamType } from "../gen/connectrpc/conformance/v1/config_pb.ts";
import type {
  ConformancePayload,
  MessageContents,
  RawHTTPRequest,
} from "../gen/connectrpc/conformance/v1/service_pb.ts";
import type { TestRequest } from "../gen/connectrpc/conformance/v1/suite_pb.ts";
import type { Outcome, OutcomeError } from "./outcome.ts";
import { exchange, type RawReply } from "./raw-exchange.ts";
import { methodOf } from "./requests.ts";
import type { Setup } from "./suites.ts";

/** Send the raw request of a case and read the reply as a strict client of its protocol. */
export async function callRaw(
  baseUrl: string,
  setup: Setup,
  { request, raw }: { request: TestRequest; raw: RawHTTPRequest },
  signal: AbortSignal,
): Promise<Outcome> {
  const reply = await exchange(
    baseUrl,
    setup,
    {
      method: raw.verb,
      path: raw.uri,
      headers: raw.headers.flatMap(({ name, value }) => value.map((one) => [name, one] as const)),
      body: bodyOf(raw),
    },
    signal,
  );
  if (setup.protocol === Protocol.CONNECT) {
    return request.streamType === StreamType.UNARY
      ? readConnectUnary(request, reply)
      : readConnectStream(request, reply);
  }
  return readGrpc(request, reply, setup.protocol);
}

function bodyOf({ body }: RawHTTPRequest): Buffer {
  switch (body.case) {
    case "unary":
      return contentsOf(body.value);
    case "stream":
      return Buffer.concat(
        body.value.items.map(({ flags, length, payload }) => {
          const data = payload === undefined ? Buffer.alloc(0) : contentsOf(payload);
          const head = Buffer.alloc(5);
          head.writeUInt8(flags);
          head.writeUInt32BE(length ?? data.length, 1);
          return Buffer.concat([head, data]);
        }),
      );
    default:
      return Buffer.alloc(0);
  }
}

type Compress = (data: Uint8Array) => Buffer;

const compressors: Readonly<Record<number, Compress | undefined>> = {
  [Compression.GZIP]: (data) => gzipSync(data),
  [Compression.BR]: (data) => brotliCompressSync(data),
  [Compression.ZSTD]: (data) => zstdCompressSync(data),
  [Compression.DEFLATE]: (data) => deflateSync(data),
};

function contentsOf({ data, compression }: MessageContents): Buffer {
  const compress = compressors[compression] ?? ((plain) => Buffer.from(plain));
  return compress(plainOf(data));
}

function plainOf(data: MessageContents["data"]): Uint8Array {
  switch (data.case) {
    case "binary":
      return data.value;
    case "text":
      return Buffer.from(data.value);
    case "binaryMessage":
      return data.value.value;
    default:
      return new Uint8Array();
  }
}

function readConnectUnary(request: TestRequest, reply: RawReply): Outcome {
  const { status, headers, body } = reply;
  const trailers = new Headers();
  headers.forEach((value, name) => {
    if (name.startsWith("trailer-")) {
      trailers.set(name.slice("trailer-".length), value);
    }
  });
  if (status === 200) {
    return { httpStatus: status, headers, trailers, payloads: [payloadOf(request, body)] };
  }
  const error = connectError(jsonOf(body), status);
  return { httpStatus: status, headers, trailers, payloads: [], error };
}

function readConnectStream(request: TestRequest, reply: RawReply): Outcome {
  const { status, headers, body } = reply;
  const base = { httpStatus: status, headers };
  if (status !== 200) {
    return { ...base, trailers: new Headers(), payloads: [], error: fromStatus(status) };
  }
  const frames = framesOf(body);
  const isEnd = ({ flags }: Frame) => (flags & 2) !== 0;
  const payloads = frames
    .filter((frame) => !isEnd(frame))
    .map(({ data }) => payloadOf(request, data));
  const end = frames.at(-1);
  if (end === undefined || !isEnd(end)) {
    throw new Error("Cannot read stream: it has no end");
  }
  const { error, metadata = {} } = jsonOf(end.data) as {
    error?: JsonValue;
    metadata?: Record<string, string[]>;
  };
  const trailers = new Headers(
    Object.entries(metadata).map(([name, list]) => [name, list.join(", ")]),
  );
  return error === undefined
    ? { ...base, trailers, payloads }
    : { ...base, trailers, payloads, error: connectError(error, status) };
}

function readGrpc(request: TestRequest, reply: RawReply, protocol: Protocol): Outcome {
  const { status, headers, body } = reply;
  if (status !== 200 || !headers.get("content-type")?.startsWith("application/grpc")) {
    const error = fromStatus(status);
    return { httpStatus: status, headers, trailers: new Headers(), payloads: [], error };
  }
  const isTrailers = ({ flags }: Frame) => protocol === Protocol.GRPC_WEB && (flags & 0x80) !== 0;
  const frames = framesOf(body);
  const last = frames.find(isTrailers);
  const ending = last === undefined ? reply.trailers : trailersIn(last.data);
  const trailers = headers.has("grpc-status") ? headers : ending;
  const payloads = frames
    .filter((frame) => !isTrailers(frame))
    .map(({ data }) => payloadOf(request, data));
  const code = trailers.get("grpc-status");
  const base = { httpStatus: status, headers, trailers, payloads };
  if (code === "0") {
    return base;
  }
  if (code === null || Code[Number(code)] === undefined) {
    throw new Error(`Cannot read reply: its grpc-status is ${code}`);
  }
  const message = decodeURIComponent(trailers.get("grpc-message") ?? "");
  return { ...base, error: { code: Number(code), message, info: undefined } };
}

function trailersIn(data: Buffer): Headers {
  const lines = data
    .toString()
    .split("\r\n")
    .filter((line) => line !== "");
  return new Headers(
    lines.map((line) => {
      const colon = line.indexOf(":");
      return [line.slice(0, colon), line.slice(colon + 1).trim()];
    }),
  );
}

interface Frame {
  readonly flags: number;
  readonly data: Buffer;
}

function framesOf(body: Buffer): Frame[] {
  const frames: Frame[] = [];
  let offset = 0;
  while (offset < body.length) {
    const start = offset + 5;
    const end = start + body.readUInt32BE(offset + 1);
    if (end > body.length) {
      throw new Error("Cannot read stream: it ends within a message");
    }
    frames.push({ flags: body.readUInt8(offset), data: body.subarray(start, end) });
    offset = end;
  }
  return frames;
}

function payloadOf(request: TestRequest, data: Buffer): ConformancePayload {
  const message = fromBinary(methodOf(request).output, data) as Message & {
    payload?: ConformancePayload;
  };
  if (message.payload === undefined) {
    throw new Error("Cannot read response: it has no payload");
  }
  return message.payload;
}

function jsonOf(data: Buffer): JsonValue | undefined {
  try {
    return JSON.parse(data.toString());
  } catch {
    return undefined;
  }
}

/** A Connect error. Whatever is not one counts by its HTTP status. */
function connectError(json: JsonValue | undefined, status: number): OutcomeError {
  if (typeof json === "object" && json !== null && !Array.isArray(json)) {
    const { code, message } = json;
    const known = codes.get(String(code));
    if (known !== undefined) {
      return { code: known, message: String(message ?? ""), info: undefined };
    }
  }
  return fromStatus(status);
}

const codes: ReadonlyMap<string, Code> = new Map(
  Object.entries(Code)
    .filter((pair): pair is [string, Code] => typeof pair[1] === "number")
    .map(([name, code]) => [name.replace(/(?<=[a-z])[A-Z]/g, "_$&").toLowerCase(), code]),
);

/** What a bare HTTP status means to a client of any protocol. */
const codeByStatus: Readonly<Record<number, Code>> = {
  400: Code.Internal,
  401: Code.Unauthenticated,
  403: Code.PermissionDenied,
  404: Code.Unimplemented,
  429: Code.Unavailable,
  502: Code.Unavailable,
  503: Code.Unavailable,
  504: Code.Unavailable,
};

function fromStatus(status: number): OutcomeError {
  return { code: codeByStatus[status] ?? Code.Unknown, message: `HTTP ${status}`, info: undefined };
}
