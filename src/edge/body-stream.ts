import type { Transform } from "node:stream";
import {
  createBrotliDecompress,
  createGunzip,
  createInflate,
  createZstdDecompress,
} from "node:zlib";
import { Code } from "@connectrpc/connect";
import { reasoned } from "../rpc/errors.ts";
import { type HttpRequest, headerOf, isCutOff } from "./http-message.ts";
import { BindError, HttpError } from "./rest/errors.ts";

/** Most bytes of a request that brings a stream of messages, before and after decompression. */
export const streamBytesMax = 256 * 1024 * 1024;

/**
 * Read a body in parts, its Content-Encoding undone. Throws HttpError 415 for an unknown encoding, at
 * once; later 413 if there are too many bytes, BindError if they cannot be decompressed.
 */
export function readParts(
  request: HttpRequest,
  { bytesMax = streamBytesMax }: { bytesMax?: number } = {},
): AsyncIterable<Uint8Array> {
  const encoding = (headerOf(request, "content-encoding") ?? "identity").trim().toLowerCase();
  const open = decompressors[encoding];
  if (encoding !== "identity" && open === undefined) {
    throw new HttpError(415, "Cannot read body: its Content-Encoding is not known", {
      "accept-encoding": "gzip, br, zstd, deflate",
    });
  }
  return bounded(
    request,
    open === undefined ? partsOf(request) : unpacked(request, open(), encoding),
    bytesMax,
  );
}

const decompressors: Readonly<Record<string, (() => Transform) | undefined>> = {
  gzip: createGunzip,
  "x-gzip": createGunzip,
  br: createBrotliDecompress,
  zstd: createZstdDecompress,
  deflate: createInflate,
};

async function* bounded(
  request: HttpRequest,
  parts: AsyncIterable<Uint8Array>,
  bytesMax: number,
): AsyncIterable<Uint8Array> {
  let size = 0;
  try {
    for await (const part of parts) {
      size += part.length;
      if (size > bytesMax) {
        throw new HttpError(413, `Cannot read body: it has more than ${bytesMax} bytes`);
      }
      yield part;
    }
  } finally {
    // What still comes is dropped, so that the client gets to read the reply.
    request.resume();
  }
  if (isCutOff(request)) {
    throw clientLeft();
  }
}

async function* partsOf(request: HttpRequest): AsyncIterable<Uint8Array> {
  try {
    // Whoever stops early still wants to answer, on the same connection.
    yield* request.iterator({ destroyOnReturn: false });
  } catch {
    throw clientLeft();
  }
}

async function* unpacked(
  request: HttpRequest,
  decompress: Transform,
  encoding: string,
): AsyncIterable<Uint8Array> {
  const onBroken = () => decompress.destroy(clientLeft());
  const onClose = () => request.readableEnded || onBroken();
  request.on("error", onBroken);
  request.on("close", onClose);
  request.pipe(decompress);
  try {
    yield* decompress;
  } catch (error) {
    const code = error instanceof Error && "code" in error ? String(error.code) : "";
    throw /^(?:Z_|ZSTD_|ERR__ERROR)/.test(code) ? notValid(encoding) : error;
  } finally {
    request.off("error", onBroken);
    request.off("close", onClose);
    request.unpipe(decompress);
  }
}

function notValid(encoding: string): BindError {
  return new BindError([{ field: "", description: `body is not valid ${encoding}` }]);
}

function clientLeft(): Error {
  return reasoned(Code.Canceled, { reason: "CANCELED", message: "the client left" });
}
