import { acquireLease } from "../credits/leases.ts";
import type { Database } from "../db/database.ts";
import { shardCount, shardOf } from "../metering/entry.ts";
import type { Mode } from "../rpc/principal.ts";

/** Credit set aside for one call. */
export interface Reservation {
  /** The lease that the call's event names. Null for a free call. */
  leaseId: string | null;
  /** Give back what the call did not cost. Call it once. */
  release(nanos: bigint): void;
}

/** Not enough credit: what there is. */
export interface Shortage {
  availableNanos: bigint;
}

/** A call that wants credit. */
export interface LeasedCall {
  accountId: string;
  mode: Mode;
  amountNanos: bigint;
}

/** The leases of one process: it spends from them in memory. */
export interface LeaseBook {
  reserve(call: LeasedCall): Promise<Reservation | Shortage>;
}

interface OpenLease {
  id: string;
  remainingNanos: bigint;
  usableUntilMs: number;
}

interface Book {
  leases: OpenLease[];
  /** The acquisition under way, so that concurrent calls make one. */
  acquiring: Promise<Shortage | null> | undefined;
  /** Calls that are being reserved for. */
  callers: number;
}

/** Calls' worth of credit that a lease takes from the balance at once. */
const blockCalls = 20n;

/** Accounts kept before those that do not call are looked for. */
const sweepSizeMin = 1_000;

/** How long a lease lasts. What is left of it is back in the balance soon after. */
const leaseMs = 60_000;

/**
 * Make the book.
 *
 * `callMsMax` is the longest that a call may take: a lease that would end before is not used for it, so that its
 * event still finds the lease active.
 */
export function createLeaseBook({
  db,
  holder,
  callMsMax,
  now,
}: {
  db: Database;
  holder: string;
  callMsMax: number;
  now: () => Date;
}): LeaseBook {
  const books = new Map<string, Book>();
  let sweepSize = sweepSizeMin;
  const usableMs = Math.max(1_000, leaseMs - callMsMax - 5_000);

  function take(book: Book, amountNanos: bigint): Reservation | null {
    const nowMs = now().getTime();
    book.leases = book.leases.filter((lease) => lease.usableUntilMs > nowMs);
    const lease = book.leases.find(({ remainingNanos }) => remainingNanos >= amountNanos);
    if (lease === undefined) {
      return null;
    }
    lease.remainingNanos -= amountNanos;
    return {
      leaseId: lease.id,
      release(nanos) {
        lease.remainingNanos += nanos;
      },
    };
  }

  /** One acquisition. Null when it brought a lease. */
  async function acquire(book: Book, call: LeasedCall): Promise<Shortage | null> {
    const begun = now();
    const wanted = {
      accountId: call.accountId,
      mode: call.mode,
      holder,
      wantNanos: call.amountNanos * blockCalls,
      leastNanos: call.amountNanos,
      shard: shardOf(call.accountId, shardCount),
      expireAt: new Date(begun.getTime() + leaseMs),
    };
    const outcome = await db.systemTransaction((tx) => acquireLease(tx, wanted, begun));
    if (!("lease" in outcome)) {
      return outcome;
    }
    const { id, amountNanos } = outcome.lease;
    const usableUntilMs = begun.getTime() + usableMs;
    book.leases.push({ id, remainingNanos: amountNanos, usableUntilMs });
    return null;
  }

  /** Forget accounts that do not call any more, once there are many. */
  function sweep() {
    const nowMs = now().getTime();
    for (const [key, { callers, leases }] of books) {
      if (callers === 0 && leases.every(({ usableUntilMs }) => usableUntilMs <= nowMs)) {
        books.delete(key);
      }
    }
    sweepSize = Math.max(sweepSizeMin, books.size * 2);
  }

  /** Whoever waited for another's acquisition tries what it brought before making one of its own. */
  async function reserveFrom(book: Book, call: LeasedCall): Promise<Reservation | Shortage> {
    for (let waits = 0; ; waits++) {
      const reservation = take(book, call.amountNanos);
      if (reservation !== null) {
        return reservation;
      }
      const isMine = book.acquiring === undefined;
      book.acquiring ??= acquire(book, call).finally(() => {
        book.acquiring = undefined;
      });
      const shortage = await book.acquiring;
      // The answer to one that began before this call may be older than credit that came in before it.
      const isFresh = isMine || waits > 0;
      if (isFresh && shortage !== null && shortage.availableNanos < call.amountNanos) {
        return shortage;
      }
    }
  }

  return {
    async reserve(call) {
      if (call.amountNanos === 0n) {
        return { leaseId: null, release: () => {} };
      }
      const key = `${call.accountId} ${call.mode}`;
      const book = books.get(key) ?? { leases: [], acquiring: undefined, callers: 0 };
      books.set(key, book);
      if (books.size >= sweepSize) {
        sweep();
      }
      book.callers += 1;
      try {
        return await reserveFrom(book, call);
      } finally {
        book.callers -= 1;
        if (book.callers === 0 && book.leases.length === 0) {
          books.delete(key);
        }
      }
    },
  };
}
