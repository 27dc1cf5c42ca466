import { readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Account, Asset, Keypair, Operation, TransactionBuilder } from "@stellar/stellar-sdk/base";
import { z } from "zod";
import { type DevnetOptions, startDevnet } from "./devnet/server.ts";
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
  | {
      name: "embedded";
      directory: string;
      port: number;
      now: () => Date;
      /** How long after a submission its ledger closes. 200 unless said otherwise. */
      closeDelayMs?: number;
      /** Chooses submissions that go wrong, for trials. */
      fault?: NonNullable<DevnetOptions["fault"]>;
    }
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
    closeDelayMs: config.closeDelayMs ?? 200,
    now: config.now,
    ...(config.fault === undefined ? {} : { fault: config.fault }),
  });
  const address = join(config.directory, addressFile);
  const network = embeddedNetwork(keys, devnet.url, async () => {
    await rm(address, { force: true });
    await devnet.close();
  });
  try {
    await fillTreasury(network, keys);
    await writeWhole(address, `${JSON.stringify({ url: devnet.url })}\n`);
  } catch (error) {
    await network.close();
    throw error;
  }
  return network;
}

/**
 * The embedded network that another process serves from `directory`. Null when none answers there.
 *
 * Its close() leaves it running.
 */
export async function attachEmbeddedNetwork(directory: string): Promise<StellarNetwork | null> {
  const text = await readFile(join(directory, addressFile), "utf8").catch(() => null);
  if (text === null) {
    return null;
  }
  const { url } = z.object({ url: z.string() }).parse(JSON.parse(text));
  const keys = await readOrMakeKeys(join(directory, "stellar.json"));
  const network = embeddedNetwork(keys, url, async () => {});
  // A file that a killed server left may name a port that is somebody else's now.
  const treasury = await network.horizon.findAccount(keys.treasury.publicKey()).catch(() => null);
  return treasury === null ? null : network;
}

/** Where the running network says its URL, for commands beside the server. */
const addressFile = "devnet.json";

function embeddedNetwork(keys: Keys, url: string, close: () => Promise<void>): StellarNetwork {
  return {
    name: "embedded",
    passphrase: passphrases.embedded,
    horizonUrl: url,
    horizon: createHorizon(url),
    asset: { code: "USDC", issuer: keys.issuer.publicKey() },
    treasury: keys.treasury,
    channel: keys.channel,
    close,
  };
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
  await writeWhole(path, `${JSON.stringify(secrets, null, 2)}\n`);
  return keys;
}

async function writeWhole(path: string, text: string): Promise<void> {
  await writeFile(`${path}.new`, text, { mode: 0o600 });
  await rename(`${path}.new`, path);
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
