import type { Mode } from "../ledger/store.ts";

/** What pays for one event. What neither a lease nor a debt covers comes from the balance. */
export interface Payment {
  leasedNanos: bigint;
  owedNanos: bigint;
}

/** What accounts have to pay with. */
export interface Means {
  /** What is left of a lease. Zero for one that is not of the account and mode, or is closed. */
  leftOf(accountId: string, mode: Mode, leaseId: string): bigint;
  /** What the account has. */
  balanceOf(accountId: string, mode: Mode): bigint;
  /** What the account owes, zero or more. */
  debtOf(accountId: string, mode: Mode): bigint;
  /** What the account may owe. */
  debtLimitOf(accountId: string): bigint;
}

/** What accounts have left, event by event. */
export interface Funds {
  /**
   * Pay for an event: from its lease if that has enough for all of it, else from the balance, and the rest as a debt.
   *
   * Null, and nothing is taken, when the account would owe more than it may.
   */
  pay(event: {
    accountId: string;
    mode: Mode;
    leaseId: string | null;
    nanos: bigint;
  }): Payment | null;
}

/** Take from what accounts have in the order in which events come, so that it does not matter how they are batched. */
export function createFunds(means: Means): Funds {
  const left = new Map<string, bigint>();
  const balances = new Map<string, bigint>();
  const debts = new Map<string, bigint>();
  return {
    pay({ accountId, mode, leaseId, nanos }) {
      const purse = `${accountId} ${mode}`;
      if (leaseId !== null) {
        const lease = `${purse} ${leaseId}`;
        const remainder = left.get(lease) ?? means.leftOf(accountId, mode, leaseId);
        if (remainder >= nanos) {
          left.set(lease, remainder - nanos);
          return { leasedNanos: nanos, owedNanos: 0n };
        }
      }
      const balance = balances.get(purse) ?? means.balanceOf(accountId, mode);
      const paid = balance <= 0n ? 0n : balance < nanos ? balance : nanos;
      const owedNanos = nanos - paid;
      const debt = debts.get(purse) ?? means.debtOf(accountId, mode);
      if (owedNanos > 0n && debt + owedNanos > means.debtLimitOf(accountId)) {
        return null;
      }
      balances.set(purse, balance - paid);
      debts.set(purse, debt + owedNanos);
      return { leasedNanos: 0n, owedNanos };
    },
  };
}
