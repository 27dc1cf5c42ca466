import type { Database } from "../db/database.ts";
import type { Trust } from "../db/trust.ts";
import type { Mode } from "../ledger/store.ts";
import type { MaybePromise } from "../lib/maybe-promise.ts";
import { acquireLease } from "./leases.ts";

/** Credit of one account that a process may spend from memory. Named by the events that it pays. */
export interface Lease {
  readonly id: string;
  /** Whether it is over before its calls were. */
  readonly isLost: boolean;
  /** Give back what a call did not cost. Once for each call that took from it, also with nothing. */
  release(nanos: bigint): void;
  /** Keep it: a long call wants it. */
  renew(): void;
}

/** What the keys of an account that share their budgets may spend. */
export interface Purse {
  /** Take credit for a call. Null: there is not so much at hand. */
  take(nanos: bigint): Lease | null;
  /** Take credit that has to be leased first. Rejects when the database does not answer. */
  ask(nanos: bigint): Promise<Lease | Shortage>;
  /** About what is left: leased, and of the balance as it was last seen. */
  readonly remainingNanos: bigint;
}

/** Not enough credit: what there is. */
export interface Shortage {
  availableNanos: bigint;
  /** Set aside for other calls. */
  reservedNanos: bigint;
  owedNanos: bigint;
  limitedBy: "balance" | "budget";
  /** Empty unless a budget limits it. */
  budgetId: string;
}

/** Who pays for a call. */
export interface Payer {
  accountId: string;
  mode: Mode;
  /** The key with those that replace it. */
  familyId: string;
  /** The member who made the key. Empty: nobody knows. */
  createdBy: string;
}

/** What a book holds. */
export interface LeaseStats {
  purses: number;
  leases: number;
}

/** The leases of one process. */
export interface LeaseBook {
  purseOf(payer: Payer): MaybePromise<Purse>;
  /** Renew what is used and give back what is not. True: there is more to do at once. */
  tick(): Promise<boolean>;
  /** Give everything back. */
  stop(): Promise<void>;
  stats(): LeaseStats;
}

/** What a book is made from. */
export interface LeaseBookDeps {
  db: Database;
  trust: Trust;
  /** The process. */
  holder: string;
  shardOf: (accountId: string) => number;
  /** Monotonic. */
  nowMs: () => number;
  onError: (error: unknown) => void;
}

/** Calls' worth of credit that a lease takes from the balance at once. */
const blockCalls = 20n;
const leaseMs = 60_000;
const usableMs = 25_000;

/** Make the book. */
export function createLeaseBook({ db, holder, shardOf, nowMs }: LeaseBookDeps): LeaseBook {
  const purses = new Map<string, Purse>();

  function purseFor({ accountId, mode }: Payer): Purse {
    let open: { id: string; leftNanos: bigint; endMs: number }[] = [];
    const take = (nanos: bigint): Lease | null => {
      open = open.filter(({ endMs }) => endMs > nowMs());
      const lease = open.find(({ leftNanos }) => leftNanos >= nanos);
      if (lease === undefined) {
        return null;
      }
      lease.leftNanos -= nanos;
      return {
        id: lease.id,
        isLost: false,
        release: (back) => {
          lease.leftNanos += back;
        },
        renew: () => {},
      };
    };
    return {
      take,
      async ask(nanos) {
        const begunMs = nowMs();
        const now = new Date();
        const wanted = {
          accountId,
          mode,
          holder,
          wantNanos: nanos * blockCalls,
          leastNanos: nanos,
          shard: shardOf(accountId),
          expireAt: new Date(now.getTime() + leaseMs),
        };
        const outcome = await db.systemTransaction((tx) => acquireLease(tx, wanted, now));
        if (!("lease" in outcome)) {
          const { availableNanos } = outcome;
          const none = { reservedNanos: 0n, owedNanos: 0n, budgetId: "" };
          return { availableNanos, ...none, limitedBy: "balance" };
        }
        const { id, amountNanos } = outcome.lease;
        open.push({ id, leftNanos: amountNanos, endMs: begunMs + usableMs });
        const lease = take(nanos);
        if (lease === null) {
          throw new Error("Cannot take from a new lease: it is over already");
        }
        return lease;
      },
      get remainingNanos() {
        return open.reduce((sum, { leftNanos }) => sum + leftNanos, 0n);
      },
    };
  }

  return {
    purseOf(payer) {
      const key = `${payer.accountId} ${payer.mode}`;
      const purse = purses.get(key) ?? purseFor(payer);
      purses.set(key, purse);
      return purse;
    },
    tick: async () => false,
    stop: async () => {},
    stats: () => ({ purses: purses.size, leases: 0 }),
  };
}
