import type { Kind } from "./store.ts";

/** What was ever debited and credited, in nano-USDC. */
export interface Moved {
  debitsNanos: bigint;
  creditsNanos: bigint;
}

/** Kinds that somebody owes or has spent, and what lies on the chain: debits cover credits. */
const debitKinds: readonly string[] = [
  "promotion_expense",
  "chain",
  "consumer_receivable",
  "developer_receivable",
] satisfies Kind[];

/** How a kind's balance grows: by credits (1), or by debits (-1) when it is owed, spent or on the chain. */
export function signOf(kind: string): 1n | -1n {
  return debitKinds.includes(kind) ? -1n : 1n;
}

/** The balance of a kind: credits less debits; of what is owed, spent or on the chain debits less credits. */
export function balanceOf(kind: string, { debitsNanos, creditsNanos }: Moved): bigint {
  return signOf(kind) * (creditsNanos - debitsNanos);
}

/** Add what was moved, kind by kind. */
export function addMoved(
  left: ReadonlyMap<string, Moved>,
  right: ReadonlyMap<string, Moved>,
): Map<string, Moved> {
  const sums = new Map(left);
  for (const [kind, { debitsNanos, creditsNanos }] of right) {
    const before = sums.get(kind) ?? { debitsNanos: 0n, creditsNanos: 0n };
    sums.set(kind, {
      debitsNanos: before.debitsNanos + debitsNanos,
      creditsNanos: before.creditsNanos + creditsNanos,
    });
  }
  return sums;
}
