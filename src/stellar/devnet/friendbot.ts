import { Account, Keypair, Operation, TransactionBuilder } from "@stellar/stellar-sdk/base";
import { baseFee } from "./state.ts";

/** What became of a wish for a funded account. */
export type Funding = "funded" | "exists" | "full" | "failed";

/** Wishes for funded accounts, granted several at a time by one transaction of the root account. */
export type Friendbot = {
  /** The account that gives. */
  address: string;
  isIdle(): boolean;
  fund(address: string): Promise<Funding>;
  /** Make the transaction that grants waiting wishes, or null when none waits. Base64. */
  build(root: { sequence: bigint }, exists: (address: string) => boolean): string | null;
  /** Answer those whom the last transaction was for. */
  settle(funding: Funding): void;
  /** Answer everybody that it failed. */
  stop(): void;
};

const waitingMax = 500;
const batchMax = 50;
const startingBalance = "10000";

/** Make a friendbot that gives from the account of a secret seed. */
export function createFriendbot(masterSecret: string, passphrase: string): Friendbot {
  const keypair = Keypair.fromSecret(masterSecret);
  const address = keypair.publicKey();
  const waiting = new Map<string, ((funding: Funding) => void)[]>();
  let granting: string[] = [];

  function answer(account: string, funding: Funding): void {
    const resolvers = waiting.get(account) ?? [];
    waiting.delete(account);
    for (const resolve of resolvers) resolve(funding);
  }

  return {
    address,
    isIdle: () => waiting.size === 0,
    fund(account) {
      const resolvers = waiting.get(account);
      if (!resolvers && waiting.size >= waitingMax) return Promise.resolve("full");
      return new Promise((resolve) => waiting.set(account, [...(resolvers ?? []), resolve]));
    },
    build({ sequence }, exists) {
      for (const account of [...waiting.keys()].filter(exists)) answer(account, "exists");
      granting = [...waiting.keys()].slice(0, batchMax);
      if (granting.length === 0) return null;
      const builder = new TransactionBuilder(new Account(address, sequence.toString()), {
        fee: baseFee.toString(),
        networkPassphrase: passphrase,
      });
      for (const destination of granting) {
        builder.addOperation(Operation.createAccount({ destination, startingBalance }));
      }
      const transaction = builder.setTimeout(0).build();
      transaction.sign(keypair);
      return transaction.toEnvelope().toXdr("base64");
    },
    settle(funding) {
      for (const account of granting) answer(account, funding);
      granting = [];
    },
    stop() {
      for (const account of [...waiting.keys()]) answer(account, "failed");
    },
  };
}
