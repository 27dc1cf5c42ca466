import { createHash } from "node:crypto";
import { Keypair, Transaction, TransactionBuilder } from "@stellar/stellar-sdk/base";
import { expect, test } from "vitest";
import type { StellarNetwork } from "../stellar/network.ts";
import { paymentsMax, signPayments } from "./envelope.ts";

const network = {
  passphrase: "A network",
  asset: { code: "USDC", issuer: Keypair.random().publicKey() },
  treasury: Keypair.random(),
  channel: Keypair.random(),
} as StellarNetwork;

function sign(orders: { address: string; amountNanos: bigint }[], sequence = 7n) {
  const signed = signPayments(network, { orders, sequence, maxTime: 99, settlementId: "stl_1" });
  const transaction = TransactionBuilder.fromXdr(signed.envelope, network.passphrase);
  if (!(transaction instanceof Transaction)) {
    throw new Error("not a transaction");
  }
  return { ...signed, transaction };
}

test("an envelope pays its orders in their order, to the stroop, with the slot's number", () => {
  const orders = [100n, 12_345_600n, 9_000_000_000_000_000_000n].map((amountNanos) => ({
    address: Keypair.random().publicKey(),
    amountNanos,
  }));

  const { transaction, hash } = sign(orders, 2n ** 60n);

  expect(transaction.sequence).toBe((2n ** 60n).toString());
  expect(transaction.source).toBe(network.channel.publicKey());
  expect(transaction.timeBounds).toMatchObject({ minTime: "0", maxTime: "99" });
  expect(transaction.operations).toMatchObject(
    ["0.0000001", "0.0123456", "9000000000.0000000"].map((amount, index) => ({
      type: "payment",
      source: network.treasury.publicKey(),
      destination: orders[index]?.address,
      amount,
    })),
  );
  expect(Buffer.from(transaction.hash()).toString("hex")).toBe(hash);
});

test("the memo names the run", () => {
  const order = { address: Keypair.random().publicKey(), amountNanos: 100n };

  const { memo } = sign([order]).transaction;

  expect(memo.type).toBe("hash");
  expect(Buffer.from(memo.value as Uint8Array).toString("hex")).toBe(
    createHash("sha256").update("stl_1").digest("hex"),
  );
});

test("a full envelope can be sent", () => {
  const address = Keypair.random().publicKey();
  const orders = Array.from({ length: paymentsMax }, () => ({ address, amountNanos: 100n }));

  expect(sign(orders).transaction.operations).toHaveLength(paymentsMax);
});
