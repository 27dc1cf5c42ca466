import type { Tx } from "../db/pool.ts";
import { notBuilt } from "../rpc/errors.ts";

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
  detail: string;
}

/** Grant what a confirmed payment bought, once however often it is confirmed. */
export async function confirmPayment(
  _tx: Tx,
  _payment: ConfirmedPayment,
  _now: Date,
): Promise<"granted" | "seen" | "unmatched"> {
  throw notBuilt("payments for credit");
}
