import { Readable } from "node:stream";
import type { Inbound } from "./inbound.ts";

/** Bodies up to this are read before they are sent on: then they can be sent again. */
export const collectedBytesMax = 64 * 1024;

/** A request's body whose reader left, or whose client did. */
export class UploadCutError extends Error {
  override name = "UploadCutError";
}

/** Whether a request's body is to be read before it is sent on. */
export function isCollected(inbound: Inbound): boolean {
  const length = inbound.header("content-length");
  return length !== undefined && /^\d{1,9}$/.test(length) && Number(length) <= collectedBytesMax;
}

/** Read a short body. Never told of one that does not end: the client's leaving is. */
export function collect(inbound: Inbound, done: (body: Buffer) => void): void {
  const { body } = inbound;
  const chunks: Buffer[] = [];
  body.on("data", (chunk: Buffer) => chunks.push(chunk));
  body.on("end", () => {
    if (!inbound.isCutOff) {
      done(chunks.length === 1 ? (chunks[0] as Buffer) : Buffer.concat(chunks));
    }
  });
}

/** The body to pass on. Not the request's own: a failed call would destroy it, and with it the connection. */
export function relayed(inbound: Inbound): Readable {
  return Readable.from(partsOf(inbound), { objectMode: false });
}

async function* partsOf(inbound: Inbound): AsyncIterable<Buffer> {
  try {
    yield* inbound.body.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>;
  } catch (cause) {
    throw new UploadCutError("Cannot send the body on: it broke off", { cause });
  }
  if (inbound.isCutOff) {
    throw new UploadCutError("Cannot send the body on: the client left");
  }
}
