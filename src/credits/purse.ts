import type { Database } from "../db/database.ts";
import type { Trust } from "../db/trust.ts";
import type { Mode } from "../ledger/store.ts";
import type { MaybePromise } from "../lib/maybe-promise.ts";
import { type Budgets, budgetKey, budgetsFor, rememberBudgets } from "./budget-memory.ts";
import type { HeldLease } from "./held-lease.ts";
import { drainedMax, drainLeases } from "./lease-end.ts";
import { LeasedPurse, type Lender } from "./leased-purse.ts";
import { acquireLease, renewLeases, topUpLease } from "./leases.ts";

/** Credit of one account that a process may spend from memory. Named by the events that it pays. */
export interface Lease {
  readonly id: string;
  /** Whether it is over before its calls were. */
  readonly isLost: boolean;
  /** Give back what a call did not cost. Once for each call that took from it, also with nothing. */
  release(nanos: bigint): void;
  /** Keep it: a long call wants it. */
  renew(): void;
  /** The journal says that it is over: take nothing more from it. */
  lose(): void;
}

/** What the keys of an account that share their budgets may spend. */
export interface Purse {
  /** Take credit for a call. Null: there is not so much at hand. */
  take(nanos: bigint): Lease | null;
  /**
   * Take credit that has to be leased first. Rejects with UNAVAILABLE, reason CREDIT_UNKNOWN, when the database does
   * not answer.
   */
  ask(nanos: bigint): Promise<Lease | Shortage>;
  /** About what is left: leased, and of the balance as it was last seen. Null: nobody has asked yet. */
  readonly remainingNanos: bigint | null;
}

/** Not enough credit: what there is. */
export interface Shortage {
  /** Of the balance, or of the budget. */
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

/** What a book holds, and what it did. */
export interface LeaseStats {
  purses: number;
  leases: number;
  topUps: number;
  /** Calls that had to wait for credit. */
  waits: number;
  /** Leases that were over before they were given back. */
  lost: number;
}

/** The leases of one process. */
export interface LeaseBook {
  /** What pays for a call. Throws or rejects with TrustLostError when its budgets cannot be known. */
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
  trust: Pick<Trust, "remember">;
  /** The process. */
  holder: string;
  shardOf: (accountId: string) => number;
  /** Monotonic. */
  nowMs: () => number;
  onError: (error: unknown) => void;
}

const renewEveryMs = 4_000;
/** What nobody used for so long is given back. */
const idleMs = 2_000;
/** The same, of a purse that was given back twice in this time. */
const idleMsOften = 10_000;
const oftenMs = 60_000;
/** Accounts are forgotten so long after their last call. */
const keepMs = 60_000;
/** Keys of one account whose purse is remembered. */
const familiesMax = 10_000;

/** The purses of an account and a mode. */
interface Account {
  budgets: Budgets | null;
  /** By the budgets that apply. */
  purses: Map<string, BookPurse>;
  /** By the key's family, which is one member's. */
  byFamily: Map<string, BookPurse>;
  usedMs: number;
}

interface BookPurse {
  purse: LeasedPurse;
  /** When it was last given back, and when before that. */
  givenBackMs: [number, number];
}

/**
 * Make the book.
 *
 * A lease lasts by the database's clock, and is used for less by the process's own, which never jumps. So no event
 * names a lease that is over, but after the process stood still; the journal refuses those.
 */
export function createLeaseBook(deps: LeaseBookDeps): LeaseBook {
  return new Book(deps);
}

class Book implements LeaseBook {
  readonly #deps: LeaseBookDeps;
  readonly #budgets: ReturnType<typeof rememberBudgets>;
  readonly #accounts = new Map<string, Account>();
  /** All that are held, with their purses: those of retired purses and of ended periods, too. */
  readonly #leases = new Map<HeldLease, BookPurse>();
  readonly #counts = { topUps: 0, waits: 0, lost: 0 };
  #renewAtMs = 0;
  #isStopped = false;

  constructor(deps: LeaseBookDeps) {
    this.#deps = deps;
    this.#budgets = rememberBudgets(deps);
  }

  purseOf(payer: Payer): MaybePromise<Purse> {
    const key = budgetKey(payer.accountId, payer.mode);
    const budgets = this.#budgets.get(key);
    return budgets instanceof Promise
      ? budgets.then((found) => this.#purse(payer, key, found))
      : this.#purse(payer, key, budgets);
  }

  stats(): LeaseStats {
    let purses = 0;
    for (const account of this.#accounts.values()) {
      purses += account.purses.size;
    }
    return { purses, leases: this.#leases.size, ...this.#counts };
  }

  async tick(): Promise<boolean> {
    this.#forgetLost();
    const hasMore = await this.#giveBack();
    await this.#renew();
    this.#forgetAccounts();
    return hasMore;
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    const { db, holder } = this.#deps;
    for (const lease of this.#leases.keys()) {
      lease.end();
    }
    this.#leases.clear();
    this.#accounts.clear();
    const all = { holder, leaseIds: null };
    while ((await db.systemTransaction((tx) => drainLeases(tx, all))) === drainedMax) {}
  }

  #purse(payer: Payer, key: string, budgets: Budgets | null): Purse {
    const account = this.#account(key, budgets);
    account.usedMs = this.#deps.nowMs();
    const known = account.byFamily.get(payer.familyId);
    if (known !== undefined) {
      return known.purse;
    }
    const ids = budgets === null ? [] : budgetsFor(budgets, payer);
    const name = ids.join(" ");
    const held = account.purses.get(name) ?? this.#newPurse(payer, ids);
    account.purses.set(name, held);
    if (account.byFamily.size >= familiesMax) {
      account.byFamily.clear();
    }
    account.byFamily.set(payer.familyId, held);
    return held.purse;
  }

  /** The account, with the purses that its budgets make. Those that others made are given back. */
  #account(key: string, budgets: Budgets | null): Account {
    const known = this.#accounts.get(key);
    if (known !== undefined && known.budgets?.text === budgets?.text) {
      return known;
    }
    for (const { purse } of known?.purses.values() ?? []) {
      purse.isRetired = true;
    }
    const usedMs = this.#deps.nowMs();
    const account: Account = { budgets, purses: new Map(), byFamily: new Map(), usedMs };
    this.#accounts.set(key, account);
    return account;
  }

  #newPurse(payer: Payer, budgetIds: readonly string[]): BookPurse {
    const { nowMs, onError } = this.#deps;
    const never = Number.NEGATIVE_INFINITY;
    const events = {
      opened: (lease: HeldLease) => void this.#leases.set(lease, held),
      toppedUp: () => {
        this.#counts.topUps += 1;
      },
      waited: () => {
        this.#counts.waits += 1;
      },
      onError,
    };
    const purse = new LeasedPurse(this.#lender(payer, budgetIds), events, nowMs);
    const held: BookPurse = { purse, givenBackMs: [never, never] };
    return held;
  }

  #lender({ accountId, mode }: Payer, budgetIds: readonly string[]): Lender {
    const { db, holder, shardOf } = this.#deps;
    const shard = shardOf(accountId);
    const refuseStopped = () => {
      if (this.#isStopped) {
        throw new Error("Cannot lease credit: the process stops");
      }
    };
    return {
      async open(wanted) {
        refuseStopped();
        const all = { ...wanted, accountId, mode, holder, shard, budgetIds };
        return db.systemTransaction((tx) => acquireLease(tx, all, new Date()));
      },
      async topUp(wanted) {
        refuseStopped();
        const all = { ...wanted, accountId, mode };
        return db.systemTransaction((tx) => topUpLease(tx, all, new Date()));
      },
    };
  }

  #forgetLost(): void {
    for (const lease of this.#leases.keys()) {
      if (lease.isLost) {
        this.#counts.lost += 1;
        this.#leases.delete(lease);
      }
    }
  }

  /** Give back what nobody uses. True: there is more. */
  async #giveBack(): Promise<boolean> {
    const { db, holder, nowMs } = this.#deps;
    const idle = this.#findIdle(nowMs());
    if (idle.length === 0) {
      return false;
    }
    for (const lease of idle) {
      lease.end();
    }
    const drained = { holder, leaseIds: idle.map(({ id }) => id) };
    await db.systemTransaction((tx) => drainLeases(tx, drained));
    for (const lease of idle) {
      const held = this.#leases.get(lease);
      if (held !== undefined) {
        held.givenBackMs = [nowMs(), held.givenBackMs[0]];
      }
      this.#leases.delete(lease);
    }
    return idle.length === drainedMax;
  }

  #findIdle(now: number): HeldLease[] {
    const idle: HeldLease[] = [];
    for (const [lease, { purse, givenBackMs }] of this.#leases) {
      const isCurrent = purse.lease === lease;
      const isWaitedFor = isCurrent && (purse.isFilling || purse.waiting > 0);
      if (lease.users > 0 || isWaitedFor) {
        continue;
      }
      const isOften = now - givenBackMs[1] < oftenMs;
      const isIdle = now - lease.usedMs >= (isOften ? idleMsOften : idleMs);
      if (isIdle || !lease.isOpen || purse.isRetired) {
        idle.push(lease);
      }
      if (idle.length === drainedMax) {
        break;
      }
    }
    return idle;
  }

  async #renew(): Promise<void> {
    const { db, holder, nowMs } = this.#deps;
    const sentAtMs = nowMs();
    if (sentAtMs < this.#renewAtMs || this.#leases.size === 0) {
      return;
    }
    const all = [...this.#leases.keys()];
    const leaseIds = all.map(({ id }) => id);
    const lasting = await db.systemStatement((one) => renewLeases(one, { holder, leaseIds }));
    this.#renewAtMs = sentAtMs + renewEveryMs;
    for (const lease of all) {
      if (lasting.has(lease.id)) {
        lease.renewed(sentAtMs);
      } else {
        lease.lose();
      }
    }
    this.#forgetLost();
  }

  #forgetAccounts(): void {
    const end = this.#deps.nowMs() - keepMs;
    for (const [key, { usedMs, purses }] of this.#accounts) {
      const isFree = [...purses.values()].every(
        ({ purse }) => purse.waiting === 0 && !purse.isFilling && purse.lease?.isOpen !== true,
      );
      if (usedMs < end && isFree) {
        this.#accounts.delete(key);
      }
    }
  }
}
