import type { LeaseBook as CreditBook } from "../credits/purse.ts";
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

/** What the old handler of calls reserves from. */
export interface LeaseBook {
  reserve(call: LeasedCall): Promise<Reservation | Shortage>;
}

/** Reserve from the process's book, as a payer without budgets of his own. */
export function createLeaseBook(book: CreditBook): LeaseBook {
  return {
    async reserve({ accountId, mode, amountNanos }) {
      if (amountNanos === 0n) {
        return { leaseId: null, release: () => {} };
      }
      const purse = await book.purseOf({ accountId, mode, familyId: "", createdBy: "" });
      const lease = purse.take(amountNanos) ?? (await purse.ask(amountNanos));
      return "availableNanos" in lease
        ? lease
        : { leaseId: lease.id, release: (nanos) => lease.release(nanos) };
    },
  };
}
