import type { DescMethodUnary, Message, Registry } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import {
  type Compression,
  compressionNegotiate,
  createMethodSerializationLookup,
  type Serialization,
} from "@connectrpc/connect/protocol";
import { compressionBrotli, compressionGzip } from "@connectrpc/connect-node";
import type { Arrival } from "../arrival.ts";
import { compileBinaryReader } from "../binary/read.ts";
import { compileBinaryWriter, type WriteBinary } from "../binary/write.ts";
import { compileReader } from "../json/read.ts";
import { compileWriter } from "../json/write.ts";
import { bodyBytesMax } from "../read-body.ts";

/** How the messages of a method are read and written in one format. */
export interface Codec {
  readonly input: Serialization<Message>;
  readonly output: Serialization<Message>;
  /** The output in binary, behind so many bytes to be filled in. Undefined: `output` shall write it. */
  readonly binary?: WriteBinary;
  /** The output as text. Only for JSON: a text goes to an HTTP/1.1 socket in one piece with its head. */
  readonly text?: (message: Message) => string;
}

/** The longest deadline that a client may ask for. */
export const timeoutMsMax = 3_600_000;

const compressions: Compression[] = [compressionGzip, compressionBrotli];

/** The limits and formats of every RPC, by any path. */
export const rpcOptions = {
  acceptCompression: compressions,
  maxTimeoutMs: timeoutMsMax,
  readMaxBytes: bodyBytesMax,
  writeMaxBytes: 0xffffffff,
  /** Smaller replies are not worth the work. */
  compressMinBytes: 1024,
} as const;

/** JSON of requests with fields that the message lacks is refused. */
export function jsonOptions(registry: Registry) {
  return { ignoreUnknownFields: false, registry };
}

/** The codecs of a method. */
export function codecsOf(
  method: DescMethodUnary,
  registry: Registry,
): { readonly proto: Codec; readonly json: Codec } {
  const options = jsonOptions(registry);
  const lookup = createMethodSerializationLookup(method, undefined, options, rpcOptions);
  const json = lookup.getI(false);
  const readJson = compileReader(method.input);
  const binary = lookup.getI(true);
  const readBinary = compileBinaryReader(method.input);
  const write = compileWriter(method.output, { alwaysEmitImplicit: false, registry });
  return {
    proto: {
      input: { ...binary, parse: parseBinary },
      output: lookup.getO(true),
      binary: compileBinaryWriter(method.output),
    },
    json: { input: { ...json, parse: parseJson }, output: lookup.getO(false), text },
  };

  function parseJson(bytes: Uint8Array): Message {
    return readJson(bytes) ?? json.parse(asBytes(bytes));
  }

  // Whoever reads a body hands over its Buffer; what was decompressed is one as well.
  function parseBinary(bytes: Uint8Array): Message {
    const read = bytes instanceof Buffer ? readBinary(bytes) : undefined;
    return read ?? binary.parse(asBytes(bytes));
  }

  function text(message: Message): string {
    try {
      return write(message);
    } catch (error) {
      throw ConnectError.from(error, Code.Internal);
    }
  }
}

/** What a request's compression is, what its reply's may be, and why it cannot be read. */
export function negotiateCompression(
  arrival: Arrival,
  names: { encoding: string; accept: string },
): ReturnType<typeof compressionNegotiate> {
  const encoding = arrival.header(names.encoding) ?? null;
  const accept = arrival.header(names.accept) ?? null;
  return encoding === null && accept === null
    ? nothing
    : compressionNegotiate(compressions, encoding, accept, names.accept);
}

const nothing = { request: null, response: null };

/** Undo a compression. Throws RESOURCE_EXHAUSTED if the result is too large. */
export function decompress(
  compression: Compression,
  bytes: Uint8Array,
): Promise<Uint8Array<ArrayBuffer>> {
  return compression.decompress(asBytes(bytes), bodyBytesMax);
}

/** RESOURCE_EXHAUSTED as connect-node words it. */
export function tooLarge(size?: number): ConnectError {
  const subject = size === undefined ? "message size" : `message size ${size}`;
  const message = `${subject} is larger than configured readMaxBytes ${bodyBytesMax}`;
  return new ConnectError(message, Code.ResourceExhausted);
}

/** Bytes of a socket never lie in shared memory, but their type allows it. */
export function asBytes(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  return bytes as Uint8Array<ArrayBuffer>;
}
