import { promisify } from "node:util";
import { brotliCompress, constants, gzip, zstdCompress } from "node:zlib";
import type { Arrival } from "./arrival.ts";
import type { Reply } from "./http-message.ts";
import { chooseEncoding, type Encoding } from "./rest/encoding.ts";

/** Smaller replies are not worth the work. */
const compressedBytesMin = 1024;

/**
 * Compress a reply's body as the client wants it, if it is worth it: from 1 KiB, and only of types that
 * are not compressed by themselves. The response is told what the reply depends on.
 * No promise for a reply that stays as it is.
 */
export function compressReply(arrival: Arrival, reply: Reply): Reply | Promise<Reply> {
  if (!isWorthIt(reply)) {
    return reply;
  }
  addVary(arrival, "accept-encoding");
  const encoding = chooseEncoding(arrival.header("accept-encoding"));
  if (encoding === undefined) {
    return reply;
  }
  const headers = { ...reply.headers, "content-encoding": encoding };
  return compressors[encoding](reply.body).then((body) => ({ ...reply, headers, body }));
}

/** Add to what a cache must compare before it gives a reply to somebody else. */
export function addVary(arrival: Arrival, name: string): void {
  const known = arrival.replyHeader("vary") ?? "";
  arrival.setHeader("vary", known === "" ? name : `${known}, ${name}`);
}

const compressibleType = /^(?:text\/|application\/(?:.*\+)?(?:json|xml|javascript)\b|image\/svg)/i;

function isWorthIt({ body, headers }: Reply): boolean {
  return (
    body.length >= compressedBytesMin &&
    headers["content-encoding"] === undefined &&
    compressibleType.test(headers["content-type"] ?? "")
  );
}

// The defaults of Brotli are for files that are compressed once.
const brotliOptions = { params: { [constants.BROTLI_PARAM_QUALITY]: 4 } };

const compressors: Readonly<Record<Encoding, (body: Reply["body"]) => Promise<Uint8Array>>> = {
  gzip: promisify(gzip),
  br: (body) => compressBrotli(body, brotliOptions),
  zstd: promisify(zstdCompress),
};

const compressBrotli = promisify(brotliCompress);
