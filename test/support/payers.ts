import { readFile } from "node:fs/promises";
import { join } from "node:path";
import {
  Account,
  Asset,
  Keypair,
  Memo,
  Operation,
  TransactionBuilder,
} from "@stellar/stellar-sdk/base";
import type { StellarNetwork } from "../../src/stellar/network.ts";
import { must } from "./app.ts";
import { act, newPayee } from "./payees.ts";

/** An embedded network, and where it keeps its keys. */
export interface OwnNetwork {
  network: StellarNetwork;
  directory: string;
}

/** Somebody who holds 100,000 USDC on the chain. */
export async function newPayer({ network, directory }: OwnNetwork): Promise<Keypair> {
  const payer = await newPayee(network);
  const keys = JSON.parse(await readFile(join(directory, "stellar.json"), "utf8")) as {
    issuer: string;
  };
  const { code, issuer } = network.asset;
  await act(network, Keypair.fromSecret(keys.issuer), [
    Operation.payment({
      destination: payer.publicKey(),
      asset: new Asset(code, issuer),
      amount: "100000",
    }),
  ]);
  return payer;
}

/** Pay to the treasury. Resolves once the payment is in a ledger. */
export async function deposit(
  { horizon, passphrase, asset, treasury }: StellarNetwork,
  payer: Keypair,
  { memo, amount, native = false }: { memo: string; amount: string; native?: boolean },
): Promise<void> {
  const address = payer.publicKey();
  const { sequence } = must(await horizon.findAccount(address));
  const transaction = new TransactionBuilder(new Account(address, sequence.toString()), {
    fee: "1000",
    networkPassphrase: passphrase,
    ...(memo === "" ? {} : { memo: Memo.text(memo) }),
  })
    .addOperation(
      Operation.payment({
        destination: treasury.publicKey(),
        asset: native ? Asset.native() : new Asset(asset.code, asset.issuer),
        amount,
      }),
    )
    .setTimeout(0)
    .build();
  transaction.sign(payer);
  const reply = await horizon.submit(transaction.toXdr());
  if (reply.kind !== "applied") {
    throw new Error(`not applied: ${JSON.stringify(reply)}`);
  }
}
