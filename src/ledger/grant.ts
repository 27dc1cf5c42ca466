import type { Tx } from "../db/pool.ts";
import { between, lockBalances, type Mode, platformAccountId, postTransfers } from "./store.ts";

/** Credit that the platform gives an account. */
export interface Grant {
  id: string;
  accountId: string;
  mode: Mode;
  amountNanos: bigint;
}

/**
 * Post a grant: it pays what the account owes first, and the rest is the account's to spend.
 *
 * Promotion is the platform's expense: developers are paid for what it buys. It must be the only posting of its
 * transaction.
 */
export async function postGrant(
  tx: Tx,
  { id, accountId, mode, amountNanos }: Grant,
  now: Date,
): Promise<void> {
  const from = { accountId: platformAccountId, kind: "promotion_expense" } as const;
  const to = { accountId, kind: "consumer" } as const;
  const debt = { accountId, kind: "consumer_receivable", mode } as const;
  const heldBy = await lockBalances(tx, [{ ...from, mode }, { ...to, mode }, debt]);
  const owedNanos = -heldBy(debt);
  const repayment = {
    accountId,
    mode,
    debit: to.kind,
    credit: debt.kind,
    amountNanos: owedNanos < amountNanos ? owedNanos : amountNanos,
    source: { type: "debt_recovery", id },
  };
  const transfers = between(from, to, { mode, amountNanos, source: { type: "grant", id } });
  await postTransfers(tx, [...transfers, repayment], now);
}
