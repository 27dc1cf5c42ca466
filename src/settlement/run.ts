import type { Tx } from "../db/pool.ts";
import { postTransfers } from "../ledger/store.ts";
import { newId } from "../lib/id.ts";
import { nanosPerStroop, stroopsFloor } from "../lib/money.ts";
import { failedPrecondition } from "../rpc/errors.ts";
import { recoverDebts } from "./debts.ts";
import { finishSettlement, insertPayouts, insertSettlement, lockPayables } from "./store.ts";

/** What a run would pay to one developer. */
export interface PlannedPayout {
  accountId: string;
  address: string;
  amountNanos: bigint;
}

/** What a run would pay now: all that is payable, down to whole stroops. Changes nothing. */
export async function planRun(tx: Tx, minimumNanos: bigint): Promise<PlannedPayout[]> {
  const least = minimumNanos > nanosPerStroop ? minimumNanos : nanosPerStroop;
  const payables = await lockPayables(tx, least);
  return payables.map((row) => ({
    accountId: row.account_id,
    address: row.address,
    amountNanos: stroopsFloor(row.payable_nanos) * nanosPerStroop,
  }));
}

/**
 * Start a run: take what developers owe, and reserve what is payable then. The rest of a stroop stays payable. Returns the run's id.
 *
 * A run that has nobody to pay is done at once. Throws FAILED_PRECONDITION, with reason SETTLEMENT_RUNNING, while
 * another one is not done.
 */
export async function startRun(tx: Tx, minimumNanos: bigint, now: Date): Promise<string> {
  const id = newId("stl", now);
  // First: whoever comes second waits here, before it locks balances that the running one moves.
  if (!(await insertSettlement(tx, id))) {
    const message = "Cannot start a run: another one is not done";
    throw failedPrecondition("SETTLEMENT_RUNNING", message);
  }
  await recoverDebts(tx, id, now);
  const plan = await planRun(tx, minimumNanos);
  const payouts = plan.map((payout) => ({ ...payout, id: newId("pay", now) }));
  await insertPayouts(tx, id, payouts);
  await postTransfers(
    tx,
    payouts.map((payout) => ({
      accountId: payout.accountId,
      mode: "live",
      debit: "payable",
      credit: "in_flight",
      amountNanos: payout.amountNanos,
      source: { type: "payout_reserve", id: payout.id },
    })),
    now,
  );
  await finishSettlement(tx, id, now);
  return id;
}
