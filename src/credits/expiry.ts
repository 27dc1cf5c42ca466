import type { Tx } from "../db/pool.ts";
import {
  type BalanceKey,
  between,
  lockBalances,
  postTransfers,
  type Transfer,
} from "../ledger/store.ts";
import { promotionMoney } from "./credit.ts";
import {
  changeGrants,
  type GrantChange,
  type GrantRow,
  leftOf,
  listDueGrants,
  lockDueGrants,
} from "./grant-store.ts";
import { addToMonths } from "./month-store.ts";

const dueMax = 100;

/**
 * Take back what is left of grants that are over, up to 100 at once. True: there may be more.
 *
 * Usage that the journal received before a grant's end burns it first: `appliedUntil` is when the oldest row that waits
 * was received, null when none does. What is set aside in leases is taken once it has come back. What has ended the
 * database's clock says; `now` is only written down.
 */
export async function expireNext(
  tx: Tx,
  { now, appliedUntil }: { now: Date; appliedUntil: Date | null },
): Promise<boolean> {
  const due = await listDueGrants(tx, { until: appliedUntil, limit: dueMax });
  if (due.length === 0) {
    return false;
  }
  const keys = due.flatMap(({ account_id: accountId, mode }): BalanceKey[] => [
    { accountId, mode, kind: "consumer" },
    { accountId, mode, kind: "lease_escrow" },
    { ...promotionMoney, mode },
  ]);
  const heldBy = await lockBalances(tx, keys);
  const grants = await lockDueGrants(tx, due);
  const { changes, transfers } = takeOver(grants, heldBy);
  await changeGrants(tx, { changes, isOver: true });
  await postTransfers(tx, transfers, now);
  const moves = grants.flatMap(({ account_id: accountId, mode }, index) => {
    const nanos = changes[index]?.returnedNanos ?? 0n;
    return [{ accountId, mode, what: "expired", nanos } as const];
  });
  await addToMonths(tx, moves, now);
  return due.length === dueMax;
}

/**
 * What is taken of grants that are over. When nothing is available nor set aside any more, what is missing was spent
 * after the end, and counts as burned.
 */
function takeOver(
  grants: readonly GrantRow[],
  heldBy: (key: BalanceKey) => bigint,
): { changes: GrantChange[]; transfers: Transfer[] } {
  const available = new Map<string, bigint>();
  const changes: GrantChange[] = [];
  const transfers: Transfer[] = [];
  for (const grant of grants) {
    const { account_id: accountId, mode, id } = grant;
    const purse = `${accountId} ${mode}`;
    const there = available.get(purse) ?? heldBy({ accountId, mode, kind: "consumer" });
    const left = leftOf(grant);
    const taken = left < there ? left : there;
    available.set(purse, there - taken);
    const isSpent = heldBy({ accountId, mode, kind: "lease_escrow" }) === 0n;
    const burnedNanos = isSpent ? left - taken : 0n;
    changes.push({ accountId, id, burnedNanos, returnedNanos: taken });
    const source = { type: "expiry", id: `${id}:${grant.returned_nanos}` };
    const rest = { mode, amountNanos: taken, source };
    transfers.push(...between({ accountId, kind: "consumer" }, promotionMoney, rest));
  }
  return { changes, transfers };
}
