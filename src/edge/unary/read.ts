import { Code, ConnectError } from "@connectrpc/connect";
import type { Arrival } from "../arrival.ts";
import type { BodyReader } from "../http2/stream.ts";

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
    arrival.readTo(new Collector(refuse, resolve, reject));
  });
}

class Collector implements BodyReader {
  readonly #refuse: Refuse;
  readonly #resolve: (body: Buffer) => void;
  readonly #reject: (error: Error) => void;
  #head: Buffer | undefined;
  #rest: Buffer[] | undefined;
  #size = 0;
  #isRefused = false;

  constructor(refuse: Refuse, resolve: (body: Buffer) => void, reject: (error: Error) => void) {
    this.#refuse = refuse;
    this.#resolve = resolve;
    this.#reject = reject;
  }

  add(part: Buffer): boolean {
    if (this.#isRefused) {
      // What still comes is dropped, so that the client gets to read the reply.
      return true;
    }
    this.#size += part.length;
    if (this.#head === undefined) {
      this.#head = part;
    } else {
      this.#rest ??= [this.#head];
      this.#rest.push(part);
    }
    const refusal = this.#refuse(this.#size, this.#head);
    if (refusal !== undefined) {
      this.#isRefused = true;
      this.#rest = undefined;
      this.#reject(refusal);
    }
    return true;
  }

  finish(): void {
    this.#resolve(
      this.#rest === undefined ? (this.#head ?? empty) : Buffer.concat(this.#rest, this.#size),
    );
  }

  fail(): void {
    this.#reject(clientLeft());
  }
}

const empty = Buffer.alloc(0);

function clientLeft(): ConnectError {
  return new ConnectError("the client left", Code.Canceled);
}
