import {
  Account,
  Asset,
  Keypair,
  Operation,
  TransactionBuilder,
  type xdr,
} from "@stellar/stellar-sdk/base";
import { type SettlementDeps, settleNext } from "../../src/settlement/loop.ts";
import { findRunning } from "../../src/settlement/store.ts";
import type { SubmitReply } from "../../src/stellar/horizon.ts";
import type { StellarNetwork } from "../../src/stellar/network.ts";
import { must } from "./app.ts";

/** Somebody to pay, on the chain as far as said. */
export async function newPayee(
  network: StellarNetwork,
  { exists = true, trusts = true } = {},
): Promise<Keypair> {
  const payee = Keypair.random();
  if (exists) {
    await network.horizon.fund(payee.publicKey());
  }
  if (exists && trusts) {
    await trust(network, payee);
  }
  return payee;
}

/** Let an account hold what payouts are made in; with limit 0 not any more. */
export function trust(network: StellarNetwork, payee: Keypair, limit?: string) {
  const asset = new Asset(network.asset.code, network.asset.issuer);
  return act(network, payee, [
    Operation.changeTrust(limit === undefined ? { asset } : { asset, limit }),
  ]);
}

/** Submit a transaction of the account's own, with its next sequence number unless said otherwise. */
export async function act(
  { horizon, passphrase }: StellarNetwork,
  source: Keypair,
  operations: xdr.Operation[],
  sequence?: bigint,
): Promise<SubmitReply> {
  const address = source.publicKey();
  const before = sequence ?? must(await horizon.findAccount(address)).sequence + 1n;
  const builder = new TransactionBuilder(new Account(address, (before - 1n).toString()), {
    fee: "1000",
    networkPassphrase: passphrase,
  });
  for (const operation of operations) {
    builder.addOperation(operation);
  }
  const transaction = builder.setTimeout(0).build();
  transaction.sign(source);
  const reply = await horizon.submit(transaction.toXdr());
  if (reply.kind !== "applied") {
    throw new Error(`not applied: ${JSON.stringify(reply)}`);
  }
  return reply;
}

/** What the treasury has sent on the chain, by address. */
export async function paidOnChain({
  horizon,
  treasury,
}: StellarNetwork): Promise<Map<string, { count: number; stroops: bigint }>> {
  const sums = new Map<string, { count: number; stroops: bigint }>();
  const from = treasury.publicKey();
  for (let cursor = "0"; ; ) {
    const page = await horizon.listPayments(from, { cursor, limit: 200 });
    for (const payment of page.filter((one) => one.successful && one.from === from)) {
      const { count = 0, stroops = 0n } = sums.get(payment.to) ?? {};
      sums.set(payment.to, { count: count + 1, stroops: stroops + payment.stroops });
    }
    const last = page.at(-1);
    if (last === undefined) {
      return sums;
    }
    cursor = last.pagingToken;
  }
}

/** Settle until no run is left, whatever fails on the way. Returns what failed. */
export async function settleAll(deps: SettlementDeps): Promise<string[]> {
  const failures: string[] = [];
  for (let round = 0; round < 500; round++) {
    const more = await settleNext(deps).catch((error: unknown) => {
      failures.push(String(error));
      return false;
    });
    if (!more) {
      if ((await deps.db.systemTransaction(findRunning)) === null) {
        return failures;
      }
      await new Promise((resolve) => setTimeout(resolve, 3));
    }
  }
  throw new Error(`not done: ${failures.slice(-3).join("; ")}`);
}
