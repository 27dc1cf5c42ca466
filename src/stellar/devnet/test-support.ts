import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  Account,
  Asset,
  Horizon,
  Keypair,
  Operation,
  type Transaction,
  TransactionBuilder,
  type xdr,
} from "@stellar/stellar-sdk";
import { test as base } from "vitest";
import { type Devnet, type DevnetOptions, startDevnet } from "./server.ts";

/** Passphrase of the networks that tests start. */
export const passphrase = "Embedded test network";
/** The account that holds all XLM. */
export const root = Keypair.fromRawEd25519Seed(new Uint8Array(32).fill(7));
/** The issuer of USDC. */
export const issuer = Keypair.fromRawEd25519Seed(new Uint8Array(32).fill(8));
/** The asset that tests pay with. */
export const usdc = new Asset("USDC", issuer.publicKey());

/** A running ledger with the SDK's own client on it. */
export type Net = Devnet & {
  directory: string;
  server: Horizon.Server;
  /** Make an account with 10,000 XLM. */
  fund(): Promise<Keypair>;
  /** Build, sign and submit; the first signer is the source. */
  send(
    signers: Keypair[],
    operations: xdr.Operation[],
  ): ReturnType<Horizon.Server["submitTransaction"]>;
  /** Build and sign with the next sequence number. */
  build(signers: Keypair[], operations: xdr.Operation[], options?: Build): Promise<Transaction>;
  /** Stop and start again on the same log. */
  restart(): Promise<Net>;
};

type Build = { fee?: string; sequence?: string; minTime?: number; maxTime?: number };

/** Tests with a ledger factory; what it starts is stopped and its directories removed. */
export const test = base.extend<{ start: (options?: Partial<DevnetOptions>) => Promise<Net> }>({
  // biome-ignore lint/correctness/noEmptyPattern: vitest reads the parameters of fixtures
  async start({}, use) {
    const nets: Net[] = [];
    const directories = new Set<string>();
    await use(async (options = {}) => {
      const directory = options.directory ?? (await mkdtemp(join(tmpdir(), "devnet-")));
      directories.add(directory);
      const net = await startNet({ ...options, directory });
      nets.push(net);
      return net;
    });
    for (const net of nets) await net.close();
    for (const directory of directories) await rm(directory, { recursive: true });
  },
});

async function startNet(options: Partial<DevnetOptions> & { directory: string }): Promise<Net> {
  const masterSecret = root.secret();
  const devnet = await startDevnet({ passphrase, masterSecret, closeDelayMs: 5, ...options });
  const server = new Horizon.Server(devnet.url, { allowHttp: true });

  async function build(
    signers: Keypair[],
    operations: xdr.Operation[],
    { fee = "100", sequence, minTime = 0, maxTime = 0 }: Build = {},
  ): Promise<Transaction> {
    const source = signers[0]?.publicKey() ?? "";
    const next = sequence ?? devnet.chain.account(source)?.sequence.toString() ?? "0";
    const builder = new TransactionBuilder(new Account(source, next), {
      fee,
      networkPassphrase: passphrase,
      timebounds: { minTime, maxTime },
    });
    for (const operation of operations) builder.addOperation(operation);
    const transaction = builder.build();
    for (const signer of signers) transaction.sign(signer);
    return transaction;
  }

  const net: Net = {
    ...devnet,
    directory: options.directory,
    server,
    build,
    async fund() {
      const keypair = Keypair.random();
      await server.friendbot(keypair.publicKey()).call();
      return keypair;
    },
    async send(signers, operations) {
      const transaction = await build(signers, operations);
      return server.submitTransaction(transaction, { skipMemoRequiredCheck: true });
    },
    async restart() {
      await devnet.close();
      return startNet(options);
    },
  };
  return net;
}

/** Payment of an amount like "1.5". */
export function pay(destination: Keypair, amount: string, asset = Asset.native()): xdr.Operation {
  return Operation.payment({ destination: destination.publicKey(), amount, asset });
}

/** Trust the test asset. */
export function trust(limit = "1000000"): xdr.Operation {
  return Operation.changeTrust({ asset: usdc, limit });
}

/** The result codes that a submission is refused with. */
export async function codesOf(submission: Promise<unknown>): Promise<unknown> {
  const error = await submission.then(
    () => ({}),
    (reason: unknown) => reason,
  );
  const { response } = error as { response?: { data?: { extras?: { result_codes?: unknown } } } };
  const codes = response?.data?.extras?.result_codes;
  if (codes === undefined)
    throw new Error("Cannot read result codes: not refused", { cause: error });
  return codes;
}
