import type { Tx } from "../db/pool.ts";
import { between, platformAccountId, postTransfers, type Transfer } from "../ledger/store.ts";
import { markHeld, markPaid } from "./store.ts";

/** A payout, as far as its end needs it. */
export interface Owed {
  account_id: string;
  id: string;
  amount_nanos: bigint;
}

/** End payouts as paid by a transaction: what was in flight is no more on the chain. */
export async function payPayouts(
  tx: Tx,
  payouts: readonly Owed[],
  { hash, now }: { hash: string; now: Date },
): Promise<void> {
  const ids = payouts.map(({ id }) => id);
  await markPaid(tx, ids, hash);
  await postTransfers(tx, payouts.flatMap(paidTransfers), now);
}

function paidTransfers({ account_id, id, amount_nanos }: Owed): Transfer[] {
  return between(
    { accountId: account_id, kind: "in_flight" },
    { accountId: platformAccountId, kind: "chain" },
    { mode: "live", amountNanos: amount_nanos, source: { type: "payout", id } },
  );
}

/**
 * End payouts as held, each for a reason on the developer's side: what was in flight is payable again.
 *
 * Their money is moved by one posting, since two postings in a transaction could lock balances in any order.
 */
export async function holdPayouts(
  tx: Tx,
  held: readonly { payout: Owed; reason: string }[],
  now: Date,
): Promise<void> {
  const transfers: Transfer[] = [];
  for (const { payout, reason } of held) {
    if (await markHeld(tx, payout.id, reason)) {
      transfers.push({
        accountId: payout.account_id,
        mode: "live",
        debit: "in_flight",
        credit: "payable",
        amountNanos: payout.amount_nanos,
        source: { type: "payout_hold", id: payout.id },
      });
    }
  }
  await postTransfers(tx, transfers, now);
}
