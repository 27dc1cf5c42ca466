import { Readable } from "node:stream";
import { context, trace } from "@opentelemetry/api";
import { Bytes } from "./bytes.ts";
import type { Inbound } from "./inbound.ts";

/** Bodies up to this are read before they are sent on: then they can be sent again. */
const collectedBytesMax = 64 * 1024;

/** A request's body whose reader left, or whose client did. */
export class UploadCutError extends Error {
  override name = "UploadCutError";
}

/** A call's body on its way to an upstream. */
export class Upload {
  /** Whether it is passed on as it comes, and cannot be sent again. */
  isStreamed = false;
  /** Whether the upstream was sent all of it. */
  isSent = false;
  /** Null: there is none, or it is streamed. */
  collected: Buffer | null = null;
  readonly #inbound: Inbound;

  constructor(inbound: Inbound) {
    this.#inbound = inbound;
  }

  /** Read a short body, then go on. Of one that does not end nothing is told: of the client's leaving is. */
  prepare(listener: { onBody(): void }): void {
    const inbound = this.#inbound;
    if (inbound.hasBody && !isShort(inbound)) {
      this.isStreamed = true;
    }
    if (!inbound.hasBody || this.isStreamed) {
      listener.onBody();
      return;
    }
    const bytes = new Bytes();
    inbound.body.on("data", (chunk: Buffer) => bytes.add(chunk));
    const onEnd = () => {
      if (!inbound.isCutOff) {
        this.collected = bytes.all;
        listener.onBody();
      }
    };
    // A stream tells of its end outside of the call's span, of which the upstream is to hear.
    const isTraced = trace.getActiveSpan() !== undefined;
    inbound.body.on("end", isTraced ? context.bind(context.active(), onEnd) : onEnd);
  }

  /** The body for another try. */
  begin(): Buffer | Readable | null {
    this.isSent = false;
    // Not the request's own: a failed call would destroy it, and with it the connection.
    return this.isStreamed
      ? Readable.from(partsOf(this.#inbound), { objectMode: false })
      : this.collected;
  }
}

function isShort(inbound: Inbound): boolean {
  const length = inbound.header("content-length");
  return length !== undefined && /^\d{1,9}$/.test(length) && Number(length) <= collectedBytesMax;
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
