import type { Tx } from "../db/pool.ts";
import {
  type BalanceKey,
  lockBalances,
  type Mode,
  platformAccountId,
  postTransfers,
  type Transfer,
} from "../ledger/store.ts";
import { failedPrecondition } from "../rpc/errors.ts";
import { promotionMoney } from "./credit.ts";
import {
  changeGrants,
  endGrants,
  type GrantChange,
  type GrantRow,
  insertReturn,
  leftOf,
  lockPurchaseGrants,
  lockReturningGrants,
} from "./grant-store.ts";
import { addToMonths } from "./month-store.ts";

/** Credit that an administrator takes back. */
export interface Taking {
  accountId: string;
  mode: Mode;
  /** Of the return, for example `ret_…`. */
  id: string;
  amountNanos: bigint;
  note: string;
}

/**
 * Take credit that is available. What the platform gave is taken first, and is no expense any more; the rest was paid
 * for, and is the platform's own now.
 *
 * FAILED_PRECONDITION, with reason CREDIT_RESERVED, when less is available. It must be the only posting of its
 * transaction.
 */
export async function takeCredit(tx: Tx, taking: Taking, now: Date): Promise<void> {
  const { accountId, mode, amountNanos } = taking;
  const available = await lockAvailable(tx, taking, [
    { ...promotionMoney, mode },
    { accountId: platformAccountId, kind: "treasury_equity", mode },
  ]);
  checkAvailable(taking, available);
  const { grants, changes } = await spreadAll(tx, taking);
  const isPromotion = new Set(grants.filter((one) => one.kind !== "purchase").map(({ id }) => id));
  const promotionNanos = changes.reduce(
    (sum, { id, returnedNanos }) => (isPromotion.has(id) ? sum + returnedNanos : sum),
    0n,
  );
  await changeGrants(tx, { changes, isOver: false });
  const source = { type: "adjustment", id: taking.id };
  const platform = { accountId: platformAccountId, mode, debit: "clearing", source } as const;
  const transfers: Transfer[] = [
    { accountId, mode, debit: "consumer", credit: "clearing", amountNanos, source },
    { ...platform, credit: "promotion_expense", amountNanos: promotionNanos },
    { ...platform, credit: "treasury_equity", amountNanos: amountNanos - promotionNanos },
  ];
  await postTransfers(tx, transfers, now);
  await addToMonths(tx, [{ accountId, mode, what: "taken", nanos: amountNanos }], now);
  await insertReturn(tx, { ...taking, purchaseId: "" }, now);
}

/**
 * Take back credit that a purchase gave: it is to be paid back. What the platform added to it ends.
 *
 * FAILED_PRECONDITION, with reason CREDIT_USED when not so much of it is left, CREDIT_RESERVED when less is available.
 * It must be the only posting of its transaction; lock the purchase first.
 */
export async function refundCredit(
  tx: Tx,
  refund: Taking & { purchaseId: string },
  now: Date,
): Promise<void> {
  const { accountId, mode, amountNanos, purchaseId } = refund;
  const refundable = { accountId, kind: "refund_payable", mode } as const;
  const available = await lockAvailable(tx, refund, [refundable]);
  const grants = await lockPurchaseGrants(tx, { accountId, purchaseId });
  const bought = grants.filter(({ kind }) => kind === "purchase");
  const left = bought.reduce((sum, grant) => sum + leftOf(grant), 0n);
  if (left < amountNanos) {
    const message = `Cannot refund ${amountNanos} nano-USDC: ${left} of the purchase are left`;
    throw failedPrecondition("CREDIT_USED", message);
  }
  checkAvailable(refund, available);
  await changeGrants(tx, { changes: spread(bought, amountNanos), isOver: false });
  const added = grants.filter(({ kind }) => kind !== "purchase").map(({ id }) => id);
  await endGrants(tx, { accountId, ids: added });
  const source = { type: "refund", id: refund.id };
  const moves = { accountId, mode, debit: "consumer", credit: "refund_payable" } as const;
  await postTransfers(tx, [{ ...moves, amountNanos, source }], now);
  await addToMonths(tx, [{ accountId, mode, what: "refunded", nanos: amountNanos }], now);
  await insertReturn(tx, refund, now);
}

/** Lock what a taking moves, and what decides on it. Returns what is available, less what is owed. */
async function lockAvailable(
  tx: Tx,
  { accountId, mode }: Taking,
  others: readonly BalanceKey[],
): Promise<bigint> {
  const consumer = { accountId, mode, kind: "consumer" } as const;
  const escrow = { accountId, mode, kind: "lease_escrow" } as const;
  const owed = { accountId, mode, kind: "consumer_receivable" } as const;
  const heldBy = await lockBalances(tx, [consumer, escrow, owed, ...others]);
  return heldBy(consumer) + heldBy(owed);
}

function checkAvailable({ amountNanos }: Taking, available: bigint): void {
  if (available < amountNanos) {
    const message = `Cannot take ${amountNanos} nano-USDC: ${available} are available`;
    throw failedPrecondition("CREDIT_RESERVED", message);
  }
}

const grantsMax = 1_000;

/** Take an amount from all of an account's grants, as far as they go. */
async function spreadAll(
  tx: Tx,
  { accountId, mode, amountNanos }: Taking,
): Promise<{ grants: GrantRow[]; changes: GrantChange[] }> {
  const grants: GrantRow[] = [];
  for (let left = amountNanos; left > 0n; ) {
    const seen = grants.length;
    const page = await lockReturningGrants(tx, { accountId, mode, seen, limit: grantsMax });
    grants.push(...page);
    left -= page.reduce((sum, grant) => sum + leftOf(grant), 0n);
    if (page.length < grantsMax) {
      break;
    }
  }
  return { grants, changes: spread(grants, amountNanos) };
}

/** Take an amount from grants in their order, as far as they go. */
function spread(grants: readonly GrantRow[], amountNanos: bigint): GrantChange[] {
  let rest = amountNanos;
  const changes: GrantChange[] = [];
  for (const grant of grants) {
    const left = leftOf(grant);
    const returnedNanos = left < rest ? left : rest;
    rest -= returnedNanos;
    if (returnedNanos > 0n) {
      changes.push({ accountId: grant.account_id, id: grant.id, burnedNanos: 0n, returnedNanos });
    }
  }
  return changes;
}
