import type { Failure } from "./failure.ts";
import type { Reply } from "./reply.ts";

/** The longest that a reply is read on, and the most of it. */
const readOnMsMax = 5_000;
const readOnBytesMax = 1024 * 1024;

/**
 * A consumer who is gone amid a reply that says at its end what was used: without it he would have had all of it but its
 * last words, for nothing.
 */
export class Parting {
  /** How the call ends. */
  readonly failure: Failure;
  readonly #reply: Reply;
  readonly #beganMs: number;
  readonly #receivedThen: number;

  constructor(failure: Failure, reply: Reply, nowMs: number) {
    this.failure = failure;
    this.#reply = reply;
    this.#beganMs = nowMs;
    this.#receivedThen = reply.received;
  }

  /** Whether the reply need not be read on. */
  isOver(nowMs: number): boolean {
    return (
      !this.#reply.isUnsaid ||
      nowMs - this.#beganMs > readOnMsMax ||
      this.#reply.received - this.#receivedThen > readOnBytesMax
    );
  }
}
