import type { LeasedCredit } from "./leases.ts";
import type { Lease } from "./purse.ts";

/**
 * How long a lease is used after it was last renewed, by the process's monotonic clock. Less than it lasts by the
 * database's: both count from moments of one round trip.
 */
export const usableMs = 12_000;

/** A lease as its process holds it. */
export class HeldLease implements Lease {
  readonly id: string;
  leftNanos = 0n;
  /** Calls that took from it and are running. */
  users = 0;
  usedMs = 0;
  /** What it got last. */
  blockNanos = 0n;
  /** What was added to it is told apart by this. */
  topUps = 0;
  /** Nothing more is taken: it is given back, or will be. */
  isEnding = false;
  /** From then on it is not known to last. */
  #usableUntilMs = 0;
  /** A budget's period ends: what is taken later is of the next. */
  readonly #periodEndMs: number;
  #takeUntilMs = 0;
  readonly #nowMs: () => number;

  constructor(
    { id, endsInMs }: LeasedCredit,
    { sentAtMs, nowMs }: { sentAtMs: number; nowMs: () => number },
  ) {
    this.id = id;
    this.#nowMs = nowMs;
    this.#periodEndMs = endsInMs === null ? Number.POSITIVE_INFINITY : sentAtMs + endsInMs;
    this.usedMs = sentAtMs;
    this.renewed(sentAtMs);
  }

  get isLost(): boolean {
    return this.#nowMs() >= this.#usableUntilMs;
  }

  /** Whether calls may take from it. */
  get isOpen(): boolean {
    return this.#nowMs() < this.#takeUntilMs;
  }

  /** Take from it, unless it has not so much. */
  take(nanos: bigint): boolean {
    const nowMs = this.#nowMs();
    if (nowMs >= this.#takeUntilMs || this.leftNanos < nanos) {
      return false;
    }
    this.leftNanos -= nanos;
    this.users += 1;
    this.usedMs = nowMs;
    return true;
  }

  release(nanos: bigint): void {
    this.leftNanos += nanos;
    this.users -= 1;
    this.usedMs = this.#nowMs();
  }

  renew(): void {
    this.usedMs = this.#nowMs();
  }

  /** Note what it got. */
  add(amountNanos: bigint): void {
    this.leftNanos += amountNanos;
    this.blockNanos = amountNanos;
  }

  /** Note that the database lets it last, asked at `sentAtMs`. */
  renewed(sentAtMs: number): void {
    this.#usableUntilMs = sentAtMs + usableMs;
    this.#takeUntilMs = this.isEnding ? 0 : Math.min(this.#usableUntilMs, this.#periodEndMs);
  }

  /** Note that the database does not let it last. */
  lose(): void {
    this.#usableUntilMs = 0;
    this.end();
  }

  /** Let nothing more be taken. */
  end(): void {
    this.isEnding = true;
    this.#takeUntilMs = 0;
  }
}
