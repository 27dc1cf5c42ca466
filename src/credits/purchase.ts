import type { Tx } from "../db/pool.ts";
import { platformAccountId, postTransfers } from "../ledger/store.ts";
import { newId } from "../lib/id.ts";
import { addCredits, type NewCredit, priorityDefault, promotionMoney } from "./credit.ts";
import { insertPayment, lockPurchase, notePaid, type PurchaseRow } from "./purchase-store.ts";

/** A purchase as a source of payments needs it. */
export interface OpenPurchase {
  id: string;
  accountId: string;
  priceNanos: bigint;
}

/** Where on the chain to pay. The amount is in units of the asset. */
export interface DepositInstructions {
  address: string;
  memo: string;
  assetCode: string;
  assetIssuer: string;
  amount: string;
  network: string;
}

/** What takes payments for purchases. */
export interface PaymentSource {
  readonly name: string;
  /** Prices are whole numbers of so many nano-USDC. */
  readonly unitNanos: bigint;
  /** How to pay for a purchase. */
  open(purchase: OpenPurchase): DepositInstructions | { checkoutUrl: string };
}

/** A payment that a source confirms. */
export interface ConfirmedPayment {
  source: string;
  /** Unique within the source. */
  eventId: string;
  /** Null: it names none. */
  purchaseId: string | null;
  amountNanos: bigint;
  /** When it was made. */
  at: Date;
  detail: string;
}

/** What became of a confirmed payment, and what its account is to be told. */
export type Confirmation =
  | { state: "granted"; told: PurchasePaid }
  | { state: "seen" }
  | { state: "unmatched" };

/** A purchase, or a part of it, that was paid and granted. */
export interface PurchasePaid {
  accountId: string;
  topic: "credits.purchase_paid";
  payload: { purchaseId: string; grantId: string; amountNanos: string };
}

/** Burns after what the platform gave: what was paid for can be paid back. */
const purchasePriority = 70;

/**
 * Grant what a confirmed payment bought, once however often it is confirmed.
 *
 * The price, paid in time, gives the credit and what the platform adds. Any other amount, or one that comes later, is
 * granted as it is. What names no purchase is the platform's until somebody says otherwise: `unmatched`.
 */
export async function confirmPayment(
  tx: Tx,
  payment: ConfirmedPayment,
  now: Date,
): Promise<Confirmation> {
  const named = payment.purchaseId === null ? null : await lockPurchase(tx, payment.purchaseId);
  const purchase = named?.source === payment.source ? named : null;
  if (!(await insertPayment(tx, { payment, purchase }, now))) {
    return { state: "seen" };
  }
  if (purchase === null) {
    const { amountNanos } = payment;
    const source = { type: "deposit", id: `${payment.source}:${payment.eventId}` };
    const kept = { accountId: platformAccountId, mode: "live", amountNanos, source } as const;
    await postTransfers(tx, [{ ...kept, debit: "chain", credit: "treasury_equity" }], now);
    return { state: "unmatched" };
  }
  // What lies on the chain is the platform's to spend: it is owed to whoever paid it in.
  const told = await grantPaid(tx, { purchase, payment, from: "chain" }, now);
  return { state: "granted", told };
}

/** A payment for a purchase, and where of the platform's its money is. */
interface Paid {
  purchase: PurchaseRow;
  payment: Pick<ConfirmedPayment, "amountNanos" | "at">;
  from: "chain" | "treasury_equity";
}

/** Grant what a payment for a locked purchase bought. It must be the only posting of its transaction. */
export async function grantPaid(tx: Tx, paid: Paid, now: Date): Promise<PurchasePaid> {
  const { purchase, payment } = paid;
  const { amountNanos, at } = payment;
  const credits = creditsOf(paid, now);
  await addCredits(tx, credits, now);
  const grantId = credits[0]?.grantId ?? "";
  await notePaid(tx, purchase, { amountNanos, grantId, at });
  const { account_id: accountId, id: purchaseId } = purchase;
  const payload = { purchaseId, grantId, amountNanos: amountNanos.toString() };
  return { accountId, topic: "credits.purchase_paid", payload };
}

/** What a payment gives: what was paid, and what the platform adds when it is just the price. */
function creditsOf({ purchase, payment: { amountNanos, at }, from }: Paid, now: Date): NewCredit[] {
  const { account_id: accountId, id: purchaseId, price_nanos: price } = purchase;
  const base = { accountId, mode: "live", expireAt: null, purchaseId } as const;
  const paid: NewCredit = {
    ...base,
    grantId: newId("grt", now),
    kind: "purchase",
    amountNanos,
    from: { accountId: platformAccountId, kind: from },
    priority: purchasePriority,
    note: "",
  };
  const isAsPromised =
    purchase.state === "pending" && amountNanos === price && at.getTime() < purchase.expire_at;
  const addedNanos = purchase.credit_nanos + purchase.bonus_nanos - price;
  if (!isAsPromised || addedNanos === 0n) {
    return [paid];
  }
  const added: NewCredit = {
    ...base,
    grantId: newId("grt", now),
    kind: "promotion",
    amountNanos: addedNanos,
    from: promotionMoney,
    priority: priorityDefault,
    note: "Added to a purchase",
  };
  return [paid, added];
}
