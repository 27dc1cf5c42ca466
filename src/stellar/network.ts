import { readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Account, Asset, Keypair, Operation, TransactionBuilder } from "@stellar/stellar-sdk/base";
import { z } from "zod";
import { startDevnet } from "./devnet/server.ts";
import { createHorizon, type Horizon } from "./horizon.ts";

/** The network that payouts are made on, and the keys that pay. */
export interface StellarNetwork {
  name: "embedded" | "testnet" | "public";
  passphrase: string;
  horizonUrl: string;
  horizon: Horizon;
  /** What developers are paid in. */
  asset: { code: string; issuer: string };
  /** Pays. */
  treasury: Keypair;
  /** Gives its sequence numbers to payouts, and pays their network fees. */
  channel: Keypair;
  close(): Promise<void>;
}

/** Where payouts go and who signs them. */
export type NetworkConfig =
  | { name: "embedded"; directory: string; port: number; now: () => Date }
  | {
      name: "testnet" | "public";
      horizonUrl: string;
      asset: { code: string; issuer: string };
      treasurySecret: string;
      channelSecret: string;
    };

const passphrases = {
  embedded: "Callora Embedded Network ; November 2026",
  testnet: "Test SDF Network ; September 2015",
  public: "Public Global Stellar Network ; September 2015",
};

/** What the embedded treasury holds from the start: 10,000,000 USDC. */
const treasuryAmount = "10000000.0000000";

/** Open the network. The embedded one is started, and its treasury filled on the first start. */
export async function openNetwork(config: NetworkConfig): Promise<StellarNetwork> {
  return config.name === "embedded" ? openEmbedded(config) : openPublished(config);
}

function openPublished(config: Exclude<NetworkConfig, { name: "embedded" }>): StellarNetwork {
  return {
    name: config.name,
    passphrase: passphrases[config.name],
    horizonUrl: config.horizonUrl,
    horizon: createHorizon(config.horizonUrl),
    asset: config.asset,
    treasury: Keypair.fromSecret(config.treasurySecret),
    channel: Keypair.fromSecret(config.channelSecret),
    close: async () => {},
  };
}

async function openEmbedded(
  config: Extract<NetworkConfig, { name: "embedded" }>,
): Promise<StellarNetwork> {
  const keys = await readOrMakeKeys(join(config.directory, "stellar.json"));
  const devnet = await startDevnet({
    directory: join(config.directory, "devnet"),
    passphrase: passphrases.embedded,
    masterSecret: keys.master.secret(),
    port: config.port,
    closeDelayMs: 200,
    now: config.now,
  });
  const network: StellarNetwork = {
    name: "embedded",
    passphrase: passphrases.embedded,
    horizonUrl: devnet.url,
    horizon: createHorizon(devnet.url),
    asset: { code: "USDC", issuer: keys.issuer.publicKey() },
    treasury: keys.treasury,
    channel: keys.channel,
    close: () => devnet.close(),
  };
  try {
    await fillTreasury(network, keys);
  } catch (error) {
    await devnet.close();
    throw error;
  }
  return network;
}

const keysFile = z.object({
  master: z.string(),
  issuer: z.string(),
  treasury: z.string(),
  channel: z.string(),
});

type Keys = Record<keyof z.infer<typeof keysFile>, Keypair>;

/** The file appears whole or not at all, so that a start that is cut off leaves nothing in the way. */
async function readOrMakeKeys(path: string): Promise<Keys> {
  const text = await readFile(path, "utf8").catch(() => null);
  if (text !== null) {
    const file = keysFile.parse(JSON.parse(text));
    return {
      master: Keypair.fromSecret(file.master),
      issuer: Keypair.fromSecret(file.issuer),
      treasury: Keypair.fromSecret(file.treasury),
      channel: Keypair.fromSecret(file.channel),
    };
  }
  const keys = {
    master: Keypair.random(),
    issuer: Keypair.random(),
    treasury: Keypair.random(),
    channel: Keypair.random(),
  };
  const secrets = Object.fromEntries(
    Object.entries(keys).map(([name, pair]) => [name, pair.secret()]),
  );
  await writeFile(`${path}.new`, `${JSON.stringify(secrets, null, 2)}\n`, { mode: 0o600 });
  await rename(`${path}.new`, path);
  return keys;
}

/** Each step looks first whether it was done: a start that is cut off goes on where it was. */
async function fillTreasury(network: StellarNetwork, keys: Keys): Promise<void> {
  const { horizon, asset } = network;
  for (const pair of [keys.issuer, keys.treasury, keys.channel]) {
    if ((await horizon.findAccount(pair.publicKey())) === null) {
      await horizon.fund(pair.publicKey());
    }
  }
  const treasury = await horizon.findAccount(keys.treasury.publicKey());
  const usdc = new Asset(asset.code, asset.issuer);
  if (treasury?.balances.some(({ issuer }) => issuer === asset.issuer)) {
    return;
  }
  const source = keys.treasury.publicKey();
  const account = new Account(source, (treasury?.sequence ?? 0n).toString());
  // One transaction: the treasury trusts the asset and holds it, or neither.
  const transaction = new TransactionBuilder(account, {
    fee: "1000",
    networkPassphrase: network.passphrase,
  })
    .addOperation(Operation.changeTrust({ asset: usdc }))
    .addOperation(
      Operation.payment({
        source: keys.issuer.publicKey(),
        destination: source,
        asset: usdc,
        amount: treasuryAmount,
      }),
    )
    .setTimeout(0)
    .build();
  transaction.sign(keys.treasury, keys.issuer);
  const reply = await horizon.submit(transaction.toXdr());
  if (reply.kind !== "applied") {
    throw new Error(`Cannot prepare the embedded network: ${JSON.stringify(reply)}`);
  }
}
