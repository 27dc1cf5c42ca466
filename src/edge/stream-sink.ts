import type { Transform } from "node:stream";
import { constants, createBrotliCompress, createGzip, createZstdCompress } from "node:zlib";
import { endResponse, type HttpResponse, isGone, writeChunk } from "./http-message.ts";
import type { Encoding } from "./rest/encoding.ts";

/** Where the parts of a reply go. */
export interface StreamSink {
  /** Each part is sent at once. Resolves once more may be written, or the client is gone. */
  write(chunk: string): Promise<void>;
  /** End the reply, with a last part if there is one. */
  end(chunk?: string): void;
}

/** Send the parts of a reply, compressed if an encoding is given. */
export function createSink(response: HttpResponse, encoding: Encoding | undefined): StreamSink {
  return encoding === undefined ? plainSink(response) : packedSink(response, encoding);
}

function plainSink(response: HttpResponse): StreamSink {
  return {
    write: (chunk) => writeChunk(response, chunk),
    end: (chunk) => endResponse(response, chunk),
  };
}

function packedSink(response: HttpResponse, encoding: Encoding): StreamSink {
  const packer = packers[encoding]();
  response.once("close", () => packer.destroy());
  // One that is destroyed while it works.
  packer.on("error", () => {});
  packer.pipe(response as NodeJS.WritableStream);
  return {
    write: (chunk) =>
      new Promise((resolve) => {
        if (isGone(response) || !packer.writable) {
          resolve();
          return;
        }
        const settle = () => {
          packer.off("close", settle);
          resolve();
        };
        packer.once("close", settle);
        packer.write(chunk, settle);
      }),
    end: (chunk) => void packer.end(chunk),
  };
}

// Small windows: streams may be many and last long, and with the defaults each would hold megabytes.
const windowBits = 15;
const packers: Readonly<Record<Encoding, () => Transform>> = {
  gzip: () => createGzip({ flush: constants.Z_SYNC_FLUSH, windowBits: 13, memLevel: 6 }),
  br: () =>
    createBrotliCompress({
      flush: constants.BROTLI_OPERATION_FLUSH,
      params: {
        [constants.BROTLI_PARAM_QUALITY]: 4,
        [constants.BROTLI_PARAM_LGWIN]: windowBits,
      },
    }),
  zstd: () =>
    createZstdCompress({
      flush: constants.ZSTD_e_flush,
      params: { [constants.ZSTD_c_windowLog]: windowBits },
    }),
};
