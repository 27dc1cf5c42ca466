import { inTime } from "../lib/in-time.ts";
import { unavailable } from "../rpc/errors.ts";
import { HeldLease } from "./held-lease.ts";
import type { LeasedCredit, WantedCredit } from "./leases.ts";
import type { Lease, Purse, Shortage } from "./purse.ts";

/** How a purse gets credit. Null: the lease to be topped up is over. */
export interface Lender {
  open(wanted: Wanted): Promise<{ lease: LeasedCredit } | Shortage>;
  topUp(
    wanted: Wanted & { leaseId: string; count: number },
  ): Promise<{ lease: LeasedCredit } | Shortage | null>;
}

type Wanted = Pick<WantedCredit, "leastNanos" | "wantNanos" | "unitNanos">;

/** What a purse tells its book. */
export interface PurseEvents {
  opened(lease: HeldLease): void;
  toppedUp(): void;
  waited(): void;
  onError(error: unknown): void;
}

/** Calls' worth of credit that a purse wants at least at once. */
const blockCalls = 20n;
/** It wants what it spends in this time. */
const aheadMs = 2_000;
/** Its spending is measured over at least this. */
const measuredMsMin = 100;
/** The longest that a call waits for credit. */
const askMsMax = 5_000;
/** After a top-up that brought nothing none is tried ahead of need for this long. */
const pauseMs = 250;

/** A purse: one lease, topped up ahead of need. What asks at the same moment shares one question to the database. */
export class LeasedPurse implements Purse {
  lease: HeldLease | null = null;
  /** Its budgets are no more those of its account. */
  isRetired = false;
  /** Calls that wait for credit. */
  waiting = 0;
  #waitingNanos = 0n;
  #filling: Promise<Shortage | null> | null = null;
  #spentNanos = 0n;
  #measuredFromMs: number;
  #noFillBeforeMs = 0;
  /** Null: nothing was ever asked. */
  #seenNanos: bigint | null = null;
  readonly #lender: Lender;
  readonly #events: PurseEvents;
  readonly #nowMs: () => number;

  constructor(lender: Lender, events: PurseEvents, nowMs: () => number) {
    this.#lender = lender;
    this.#events = events;
    this.#nowMs = nowMs;
    this.#measuredFromMs = nowMs();
  }

  get remainingNanos(): bigint | null {
    return this.#seenNanos === null ? null : this.#seenNanos + (this.lease?.leftNanos ?? 0n);
  }

  /** Whether its lease is being opened or topped up. */
  get isFilling(): boolean {
    return this.#filling !== null;
  }

  take(nanos: bigint): Lease | null {
    const { lease } = this;
    if (lease === null || !lease.take(nanos)) {
      return null;
    }
    this.#spentNanos += nanos;
    if (lease.leftNanos * 2n < lease.blockNanos && this.#filling === null) {
      this.#fillAhead(nanos);
    }
    return lease;
  }

  async ask(nanos: bigint): Promise<Lease | Shortage> {
    const endMs = this.#nowMs() + askMsMax;
    this.#events.waited();
    this.waiting += 1;
    this.#waitingNanos += nanos;
    try {
      for (let waits = 0; this.#nowMs() < endMs; waits++) {
        const lease = this.take(nanos);
        if (lease !== null) {
          return lease;
        }
        const isMine = this.#filling === null;
        const shortage = await (this.#filling ?? this.#fill(nanos));
        // The answer to one that began before this call may be older than credit that came in before it.
        const isFresh = isMine || waits > 0;
        if (isFresh && shortage !== null && shortage.availableNanos < this.#missing(nanos)) {
          return shortage;
        }
      }
    } catch (error) {
      throw unknownCredit(error);
    } finally {
      this.waiting -= 1;
      this.#waitingNanos -= nanos;
    }
    throw unknownCredit(undefined);
  }

  #fillAhead(nanos: bigint): void {
    if (this.#nowMs() < this.#noFillBeforeMs) {
      return;
    }
    this.#fill(nanos).then(
      (shortage) => {
        if (shortage !== null) {
          this.#noFillBeforeMs = this.#nowMs() + pauseMs;
        }
      },
      (error: unknown) => {
        this.#noFillBeforeMs = this.#nowMs() + pauseMs;
        this.#events.onError(error);
      },
    );
  }

  /** Get more, once for all who ask meanwhile. Null: it came. */
  #fill(nanos: bigint): Promise<Shortage | null> {
    const filled = this.#fillOnce(nanos);
    const filling = inTime(filled, { ms: askMsMax, what: "the database" }).finally(() => {
      this.#filling = null;
    });
    this.#filling = filling;
    return filling;
  }

  /** What a call needs besides what is at hand. */
  #missing(nanos: bigint): bigint {
    const leftNanos = this.lease?.isOpen === true ? this.lease.leftNanos : 0n;
    return leftNanos < nanos ? nanos - leftNanos : nanos;
  }

  async #fillOnce(nanos: bigint): Promise<Shortage | null> {
    const { lease } = this;
    const wanted = { leastNanos: nanos, wantNanos: this.#want(nanos), unitNanos: nanos };
    const sentAtMs = this.#nowMs();
    const more =
      lease?.isOpen === true
        ? await this.#topUp(lease, { ...wanted, leastNanos: this.#missing(nanos) })
        : null;
    if (more !== null && lease !== null) {
      return this.#note(more, (got) => {
        lease.add(got.amountNanos);
        lease.renewed(sentAtMs);
        this.#events.toppedUp();
      });
    }
    const openedMs = this.#nowMs();
    return this.#note(await this.#lender.open(wanted), (got) => {
      const opened = new HeldLease(got, { sentAtMs: openedMs, nowMs: this.#nowMs });
      opened.add(got.amountNanos);
      // What the one before has left goes back once its calls are done.
      this.lease?.end();
      this.lease = opened;
      this.#events.opened(opened);
    });
  }

  async #topUp(lease: HeldLease, wanted: Wanted) {
    // Never used again, also when nobody knows whether it was.
    lease.topUps += 1;
    const more = await this.#lender.topUp({ ...wanted, leaseId: lease.id, count: lease.topUps });
    if (more === null) {
      lease.lose();
    }
    return more;
  }

  #note(
    outcome: { lease: LeasedCredit } | Shortage,
    got: (lease: LeasedCredit) => void,
  ): Shortage | null {
    if (!("lease" in outcome)) {
      this.#seenNanos = outcome.availableNanos;
      return outcome;
    }
    this.#seenNanos = outcome.lease.availableNanos;
    got(outcome.lease);
    return null;
  }

  /** What is worth taking at once: for those who wait, and for a while of what is spent. */
  #want(nanos: bigint): bigint {
    const nowMs = this.#nowMs();
    const elapsedMs = Math.max(measuredMsMin, Math.ceil(nowMs - this.#measuredFromMs));
    const ahead = (this.#spentNanos * BigInt(aheadMs)) / BigInt(elapsedMs);
    if (elapsedMs >= aheadMs) {
      this.#spentNanos = 0n;
      this.#measuredFromMs = nowMs;
    }
    return [ahead, this.#waitingNanos, nanos * blockCalls].reduce((a, b) => (a > b ? a : b));
  }
}

function unknownCredit(cause: unknown) {
  const error = unavailable(
    "CREDIT_UNKNOWN",
    "Cannot tell the credit: the database does not answer",
  );
  error.cause = cause;
  return error;
}
