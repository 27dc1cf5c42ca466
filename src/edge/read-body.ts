import { promisify } from "node:util";
import { brotliDecompress, gunzip, inflate, zstdDecompress } from "node:zlib";
import { Code } from "@connectrpc/connect";
import { reasoned } from "../rpc/errors.ts";
import { type HttpRequest, headerOf, isCutOff } from "./http-message.ts";
import { HttpError } from "./rest/errors.ts";

/** Most bytes of a request's body, before and after decompression. */
export const bodyBytesMax = 4 * 1024 * 1024;

/** Whether the request brings a body, by its headers. */
export function hasBody(request: HttpRequest): boolean {
  if ("stream" in request) {
    return !request.stream.endAfterHeaders && request.headers["content-length"] !== "0";
  }
  const { "content-length": length, "transfer-encoding": encoding } = request.headers;
  return encoding !== undefined || (length !== undefined && length !== "0");
}

/**
 * Read a whole body and undo its Content-Encoding. Throws HttpError 413 if it is too large, at once
 * when Content-Length says so; 415 for an unknown encoding.
 */
export async function readBody(
  request: HttpRequest,
  { bytesMax = bodyBytesMax }: { bytesMax?: number } = {},
): Promise<Uint8Array> {
  if (!hasBody(request)) {
    return new Uint8Array();
  }
  const encoding = (headerOf(request, "content-encoding") ?? "identity").trim().toLowerCase();
  const decompress = decompressors[encoding];
  if (decompress === undefined) {
    throw new HttpError(415, "Cannot read body: its Content-Encoding is not known", {
      "accept-encoding": "gzip, br, zstd, deflate",
    });
  }
  if (Number(headerOf(request, "content-length") ?? 0) > bytesMax) {
    throw tooLarge(bytesMax);
  }
  return decompress(await collect(request, bytesMax), bytesMax);
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

function collect(request: HttpRequest, bytesMax: number): Promise<Buffer> {
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
  const chunks: Buffer[] = [];
  let size = 0;
  const onData = (chunk: Buffer) => {
    size += chunk.length;
    if (size > bytesMax) {
      stop();
      // What still comes is dropped, so that the client gets to read the reply.
      request.resume();
      reject(tooLarge(bytesMax));
    } else {
      chunks.push(chunk);
    }
  };
  const onEnd = () => {
    if (isCutOff(request)) {
      onBroken();
      return;
    }
    stop();
    resolve(chunks.length === 1 && chunks[0] ? chunks[0] : Buffer.concat(chunks, size));
  };
  const onBroken = () => {
    stop();
    reject(reasoned(Code.Canceled, { reason: "CANCELED", message: "canceled" }));
  };
  const stop = () => {
    request.off("data", onData);
    request.off("end", onEnd);
    request.off("error", onBroken);
    request.off("close", onBroken);
  };
  request.on("data", onData);
  request.on("end", onEnd);
  request.on("error", onBroken);
  request.on("close", onBroken);
  return promise;
}

function tooLarge(bytesMax: number): HttpError {
  return new HttpError(413, `Cannot read body: it has more than ${bytesMax} bytes`);
}
