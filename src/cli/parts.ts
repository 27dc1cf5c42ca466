import { mkdir } from "node:fs/promises";
import type { Config } from "../config.ts";
import type { Database } from "../db/database.ts";
import { DataDirInUseError } from "../db/embedded-error.ts";
import { lockDirectory } from "../db/embedded-process.ts";
import { type MigrationState, migrationStatus } from "../db/migrate.ts";
import { migrationsDirectory } from "../db/migration-files.ts";
import { networkConfig, openDatabase } from "../server.ts";
import { enterTreasury } from "../settlement/treasury.ts";
import { attachEmbeddedNetwork, openNetwork, type StellarNetwork } from "../stellar/network.ts";
import { type OpenUrls, openEmbedded } from "./embedded.ts";

/** What a command works on. */
export interface Parts {
  db: Database;
  /** Open the network that payouts are made on, until the command ends. */
  openNetwork(): Promise<StellarNetwork>;
}

/**
 * Open the database, do the work, and close what was opened.
 *
 * The embedded parts are those of the running server if there is one, else they are started for the time of the
 * command. Statements may take `statementMs`, or as long as the server's. Throws when the schema is not this version's.
 */
export async function withParts<T>(
  { config, now }: { config: Config; now: () => Date },
  work: (parts: Parts) => Promise<T>,
  options: { statementMs?: number } = {},
): Promise<T> {
  await using stack = new AsyncDisposableStack();
  const { urls, isShared } = await openUrls(config, stack);
  checkSchema(await migrationStatus(urls.owner, { directory: migrationsDirectory }));
  const db = await openDatabase(urls, options);
  stack.defer(() => db.close());
  return await work({
    db,
    async openNetwork() {
      if (isShared || (await isLedgerTaken(config, stack))) {
        return attachLedger(config);
      }
      const network = await openNetwork(networkConfig(config, now));
      stack.defer(() => network.close());
      await enterTreasury({ db, network }, now());
      return network;
    },
  });
}

async function openUrls(
  { database, dataDir }: Config,
  stack: AsyncDisposableStack,
): Promise<OpenUrls> {
  if (database !== undefined) {
    await mkdir(dataDir, { recursive: true, mode: 0o700 });
    const { migrateUrl, url, workerUrl } = database;
    return { urls: { owner: migrateUrl, app: url, worker: workerUrl }, isShared: false };
  }
  return openEmbedded(dataDir, stack);
}

/** With a database of its own a server still keeps the embedded ledger in its data directory. */
async function isLedgerTaken(
  { database, stellar, dataDir }: Config,
  stack: AsyncDisposableStack,
): Promise<boolean> {
  if (database === undefined || stellar.network !== "embedded") {
    return false;
  }
  try {
    const lock = await lockDirectory(dataDir);
    stack.defer(() => lock.release());
    return false;
  } catch (error) {
    if (error instanceof DataDirInUseError) {
      return true;
    }
    throw error;
  }
}

async function attachLedger({ dataDir }: Config): Promise<StellarNetwork> {
  const network = await attachEmbeddedNetwork(dataDir);
  if (network === null) {
    const reason = `the process that runs on ${dataDir} does not serve it yet`;
    throw new Error(`Cannot reach the embedded ledger: ${reason}`);
  }
  return network;
}

function checkSchema(states: MigrationState[]): void {
  const wrong = states.find(({ state }) => state !== "applied");
  if (wrong === undefined) {
    return;
  }
  const remedy = wrong.state === "pending" ? "; run callora migrate up" : "";
  throw new Error(`Cannot use the database: migration ${wrong.name} is ${wrong.state}${remedy}`);
}
