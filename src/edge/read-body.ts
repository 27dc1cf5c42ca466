import { promisify } from "node:util";
import { brotliDecompress, gunzip, inflate, zstdDecompress } from "node:zlib";
import { Code } from "@connectrpc/connect";
import { reasoned } from "../rpc/errors.ts";
import type { Arrival } from "./arrival.ts";
import { HttpError } from "./rest/errors.ts";
import { collect } from "./unary/read.ts";

/** Most bytes of a request's body, before and after decompression. */
export const bodyBytesMax = 4 * 1024 * 1024;

/**
 * Read a whole body and undo its Content-Encoding. Throws HttpError 413 if it is too large, at once
 * when Content-Length says so; 415 for an unknown encoding.
 */
export function readBody(
  arrival: Arrival,
  { bytesMax = bodyBytesMax }: { bytesMax?: number } = {},
): Promise<Uint8Array> {
  if (Number(arrival.header("content-length") ?? 0) > bytesMax) {
    throw tooLarge(bytesMax);
  }
  const read = () => collect(arrival, (size) => (size > bytesMax ? tooLarge(bytesMax) : undefined));
  const contentEncoding = arrival.header("content-encoding");
  if (contentEncoding === undefined) {
    return read();
  }
  const encoding = contentEncoding.trim().toLowerCase();
  const decompress = decompressors[encoding];
  if (decompress === undefined) {
    throw new HttpError(415, "Cannot read body: its Content-Encoding is not known", {
      "accept-encoding": "gzip, br, zstd, deflate",
    });
  }
  return read().then((bytes) => decompress(bytes, bytesMax));
}

type Decompress = (bytes: Buffer, bytesMax: number) => Promise<Uint8Array>;

const decompressors: Readonly<Record<string, Decompress | undefined>> = {
  identity: (bytes) => Promise.resolve(bytes),
  gzip: bounded("gzip", promisify(gunzip)),
  "x-gzip": bounded("gzip", promisify(gunzip)),
  br: bounded("br", promisify(brotliDecompress)),
  zstd: bounded("zstd", promisify(zstdDecompress)),
  deflate: bounded("deflate", promisify(inflate)),
};

function bounded(
  name: string,
  decompress: (bytes: Buffer, options: { maxOutputLength: number }) => Promise<Buffer>,
): Decompress {
  return async (bytes, bytesMax) => {
    try {
      return await decompress(bytes, { maxOutputLength: bytesMax });
    } catch (error) {
      if (error instanceof RangeError) {
        throw tooLarge(bytesMax);
      }
      const message = `Cannot read body: it is not valid ${name}`;
      throw reasoned(Code.InvalidArgument, { reason: "REQUEST_INVALID", message });
    }
  };
}

function tooLarge(bytesMax: number): HttpError {
  return new HttpError(413, `Cannot read body: it has more than ${bytesMax} bytes`);
}
