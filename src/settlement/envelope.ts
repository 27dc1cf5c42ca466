import { createHash } from "node:crypto";
import { Account, Asset, Memo, Operation, TransactionBuilder } from "@stellar/stellar-sdk/base";
import { nanosPerStroop, stroopsText } from "../lib/money.ts";
import type { StellarNetwork } from "../stellar/network.ts";

/** Most payments that one transaction can hold. */
export const paymentsMax = 100;

/** Fee offered for each operation, in stroops of XLM: ten times the least. */
const feePerOperation = "1000";

/** One payment of a transaction. */
export interface PaymentOrder {
  address: string;
  amountNanos: bigint;
}

/** A signed transaction: its hash names it on the chain for ever. */
export interface SignedEnvelope {
  hash: string;
  envelope: string;
}

/**
 * Build and sign the transaction that pays the orders, in their order, with the slot's sequence number.
 *
 * The run's id is in the memo, so that the chain alone says what it was for.
 */
export function signPayments(
  { asset, channel, treasury, passphrase }: StellarNetwork,
  {
    orders,
    sequence,
    maxTime,
    settlementId,
  }: { orders: PaymentOrder[]; sequence: bigint; maxTime: number; settlementId: string },
): SignedEnvelope {
  const account = new Account(channel.publicKey(), (sequence - 1n).toString());
  const builder = new TransactionBuilder(account, {
    fee: feePerOperation,
    networkPassphrase: passphrase,
    timebounds: { minTime: 0, maxTime },
    memo: Memo.hash(createHash("sha256").update(settlementId).digest("hex")),
  });
  for (const { address, amountNanos } of orders) {
    builder.addOperation(
      Operation.payment({
        source: treasury.publicKey(),
        destination: address,
        asset: new Asset(asset.code, asset.issuer),
        amount: stroopsText(amountNanos / nanosPerStroop),
      }),
    );
  }
  const transaction = builder.build();
  transaction.sign(channel, treasury);
  return {
    hash: Buffer.from(transaction.hash()).toString("hex"),
    envelope: transaction.toXdr(),
  };
}
