import type { Readable } from "node:stream";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Arrival } from "../arrival.ts";

/** Says at each part of a body, from its bytes so far and the first part, whether it is too much. */
export type Refuse = (size: number, head: Buffer) => Error | undefined;

/**
 * Read a whole body. What `refuse` returns is thrown, and the rest of the body dropped. Throws CANCELED
 * if the client leaves.
 */
export function collect(arrival: Arrival, refuse: Refuse): Promise<Buffer> {
  if (arrival.isGone) {
    return Promise.reject(clientLeft());
  }
  return new Promise((resolve, reject) => {
    const body: Read = arrival.body;
    body[readerKey] = new Reader(arrival, refuse, { resolve, reject });
    // The same functions for all requests: Node keeps a stream of HTTP/2 until the next full collection,
    // with all that listens to it.
    body.on("data", onData);
    body.on("end", onEnd);
    body.on("close", onClose);
  });
}

const readerKey = Symbol("reader");

type Read = Readable & { [readerKey]?: Reader | undefined };

function onData(this: Read, chunk: Buffer): void {
  this[readerKey]?.add(chunk, this);
}

function onEnd(this: Read): void {
  const reader = this[readerKey];
  this[readerKey] = undefined;
  reader?.finish();
}

function onClose(this: Read): void {
  const reader = this[readerKey];
  this[readerKey] = undefined;
  reader?.fail(clientLeft());
}

interface Settle {
  readonly resolve: (body: Buffer) => void;
  readonly reject: (error: Error) => void;
}

class Reader {
  readonly #arrival: Arrival;
  readonly #refuse: Refuse;
  readonly #settle: Settle;
  #head: Buffer | undefined;
  #rest: Buffer[] | undefined;
  #size = 0;

  constructor(arrival: Arrival, refuse: Refuse, settle: Settle) {
    this.#arrival = arrival;
    this.#refuse = refuse;
    this.#settle = settle;
  }

  add(chunk: Buffer, body: Read): void {
    this.#size += chunk.length;
    if (this.#head === undefined) {
      this.#head = chunk;
    } else {
      this.#rest ??= [this.#head];
      this.#rest.push(chunk);
    }
    const refusal = this.#refuse(this.#size, this.#head);
    if (refusal !== undefined) {
      // What still comes is dropped, so that the client gets to read the reply.
      body[readerKey] = undefined;
      this.fail(refusal);
    }
  }

  finish(): void {
    if (this.#arrival.isCutOff) {
      this.fail(clientLeft());
    } else {
      const { resolve } = this.#settle;
      resolve(
        this.#rest === undefined ? (this.#head ?? empty) : Buffer.concat(this.#rest, this.#size),
      );
    }
  }

  fail(error: Error): void {
    this.#settle.reject(error);
  }
}

const empty = Buffer.alloc(0);

function clientLeft(): ConnectError {
  return new ConnectError("the client left", Code.Canceled);
}
