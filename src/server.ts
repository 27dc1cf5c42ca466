import { randomBytes } from "node:crypto";
import { link, mkdir, readFile, rename, unlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { sql } from "slonik";
import { z } from "zod";
import { createPasswordHasher } from "./accounts/password.ts";
import { existsSuperAdmin } from "./accounts/store.ts";
import { createUser } from "./accounts/users.ts";
import { createApp } from "./app.ts";
import { insertAudit } from "./audit/store.ts";
import type { Config } from "./config.ts";
import { type EncryptionKey, encryptionKeys, makeEncryptionKeys } from "./config-values.ts";
import { checkKeys } from "./credentials/key-check.ts";
import { createSealer } from "./credentials/seal.ts";
import { createDatabase, type Database } from "./db/database.ts";
import { startEmbedded } from "./db/embedded.ts";
import { lockDirectory } from "./db/embedded-process.ts";
import { assertDurable, migrateUp } from "./db/migrate.ts";
import { migrationsDirectory } from "./db/migration-files.ts";
import { openPool } from "./db/pool.ts";
import { openTrust } from "./db/trust.ts";
import { portOf } from "./lib/address.ts";
import { releaseMemory } from "./lib/memory.ts";
import type { Logger } from "./log.ts";
import { maintainPartitions } from "./metering/partitions.ts";
import { createMetrics } from "./metrics.ts";
import { shownHost } from "./own-origins.ts";
import { enterTreasury } from "./settlement/treasury.ts";
import { type NetworkConfig, openNetwork } from "./stellar/network.ts";

/** A server that takes calls. */
export interface RunningServer {
  url: string;
  /** Drain, then stop what was started, the last one first. */
  close(): Promise<void>;
}

/** What the first start says to the person who started it. */
export interface FirstAdmin {
  username: string;
  /** Where the password was written. Undefined when the environment gave it. */
  passwordFile: string | undefined;
  password: string;
}

/**
 * Start everything that the configuration asks for, and listen.
 *
 * Throws when a part cannot start; whatever was started before it is stopped again. An aborted signal stops the
 * start between two parts.
 */
export async function startServer({
  config,
  log,
  now,
  version,
  signal,
  onFirstAdmin,
}: {
  config: Config;
  log: Logger;
  now: () => Date;
  version: string;
  signal: AbortSignal;
  onFirstAdmin: (admin: FirstAdmin) => void;
}): Promise<RunningServer> {
  const stops: (() => Promise<void>)[] = [];
  async function stopAll() {
    for (const stop of stops.toReversed()) {
      await stop().catch((err) => log.error("Cannot stop a part", { err }));
    }
  }
  try {
    const urls = await openDatabaseServer(config, log, stops);
    signal.throwIfAborted();
    await migrateUp(urls.owner, { directory: migrationsDirectory });
    await assertDurable(urls.owner);
    const maintain = async () => {
      const keepMonths = config.eventsKeepMonths;
      const changes = await maintainPartitions({ url: urls.owner, keepMonths, now: now() });
      log.info("Looked after the partitions of events", { component: "partitions", ...changes });
    };
    const db = await openDatabase(urls);
    stops.push(() => db.close());
    const sealer = createSealer({ keys: await readEncryptionKeys(config) });
    await checkKeys({ db, sealer });
    signal.throwIfAborted();
    const trust = await openTrust({
      db,
      listenUrl: urls.listen,
      onError: (err) => log.warn("Cannot trust what is remembered", { err, component: "trust" }),
    });
    stops.push(() => trust.close());
    await ensureAdmin({ config, db, now, onFirstAdmin });
    const network = await openNetwork(networkConfig(config, now));
    stops.push(() => network.close());
    await enterTreasury({ db, network }, now());
    signal.throwIfAborted();
    const app = createApp({
      config,
      secretKey: await readSecretKey(config),
      sealer,
      db,
      trust,
      network,
      log,
      metrics: createMetrics(),
      now,
      version,
      maintain,
      ownPorts: ownPorts(config, [urls.owner, urls.app, network.horizonUrl]),
      projectorThread: { url: urls.worker, clockOffsetMs: config.testClockOffsetMs },
    });
    releaseMemory();
    const { host, port, tls } = config.server;
    const bound = await app.listen({ host, port });
    stops.push(() => app.close());
    return { url: `${tls ? "https" : "http"}://${shownHost(host)}:${bound.port}`, close: stopAll };
  } catch (error) {
    await stopAll();
    throw error;
  }
}

/** Connection strings by role. */
export interface DatabaseUrls {
  owner: string;
  app: string;
  worker: string;
}

async function openDatabaseServer(
  config: Config,
  log: Logger,
  stops: (() => Promise<void>)[],
): Promise<DatabaseUrls & { listen: string }> {
  const { database, dataDir } = config;
  if (database !== undefined) {
    await mkdir(dataDir, { recursive: true, mode: 0o700 });
    if (config.stellar.network === "embedded") {
      // Two ledgers that write one file would destroy it.
      const lock = await lockDirectory(dataDir);
      stops.push(() => lock.release());
    }
    const { migrateUrl, url, workerUrl, listenUrl } = database;
    return { owner: migrateUrl, app: url, worker: workerUrl, listen: listenUrl };
  }
  const embedded = await startEmbedded({ dataDir });
  stops.push(() => embedded.stop());
  embedded.onLost((err) => {
    log.fatal("Cannot keep the embedded PostgreSQL running", { err });
    process.exitCode = 1;
    process.kill(process.pid, "SIGTERM");
  });
  return { ...embedded.urls, listen: embedded.urls.worker };
}

/** The database in its two roles. `statementMs`: how long a statement may take. */
export async function openDatabase(
  { app, worker }: DatabaseUrls,
  options: { statementMs?: number } = {},
): Promise<Database> {
  const pools = await Promise.all([
    openPool({ url: app, role: "callora_app", connectionsMax: 10, ...options }),
    openPool({ url: worker, role: "callora_worker", connectionsMax: 10, ...options }),
  ]);
  return createDatabase({ app: pools[0], worker: pools[1], appendAudit: insertAudit });
}

/** Make the first person who may run the platform. */
async function ensureAdmin({
  config,
  db,
  now,
  onFirstAdmin,
}: {
  config: Config;
  db: Database;
  now: () => Date;
  onFirstAdmin: (admin: FirstAdmin) => void;
}): Promise<void> {
  if (await db.systemTransaction(existsSuperAdmin)) {
    return;
  }
  const { username, password: given } = config.admin;
  const password = given ?? randomBytes(18).toString("base64url");
  const passwordHash = await createPasswordHasher().hash(password);
  // Written first: a start that is cut off here leaves a file, not an admin whom nobody can be.
  const passwordFile =
    given === undefined
      ? await writeSecretFile(join(config.dataDir, "admin-password"), password)
      : undefined;
  const isMade = await db.systemTransaction(async (tx) => {
    // One server makes the admin; others that start at the same time wait here and find one.
    await tx.query(sql.type(z.unknown())`select pg_advisory_xact_lock(hashtext('callora admin'))`);
    if (await existsSuperAdmin(tx)) {
      return false;
    }
    const user = { username, email: "", passwordHash, role: "super_admin" } as const;
    if ((await createUser(tx, user, now())) === null) {
      throw new Error(`Cannot make the first admin: the username "${username}" is taken`);
    }
    return true;
  });
  if (isMade) {
    onFirstAdmin({ username, password, passwordFile });
  }
}

/** The configured key, or one that is made once and kept under the data directory. */
async function readSecretKey({ secrets, dataDir }: Config): Promise<string> {
  return (
    secrets.secretKey ??
    keptSecret(join(dataDir, "secret-key"), () => randomBytes(32).toString("base64url"))
  );
}

/** The configured keys, or one that is made once and kept under the data directory, in the form of the variable. */
async function readEncryptionKeys({ secrets, dataDir }: Config): Promise<readonly EncryptionKey[]> {
  if (secrets.encryptionKeys.length > 0) {
    return secrets.encryptionKeys;
  }
  const path = join(dataDir, "encryption-keys");
  const { data } = encryptionKeys().safeParse(await keptSecret(path, makeEncryptionKeys));
  if (data === undefined || data.length === 0) {
    throw new Error(`Cannot start: ${path} does not hold ENCRYPTION_KEYS`);
  }
  return data;
}

/** What the file holds. Without one it is made: of several processes that do so at the same time one wins. */
async function keptSecret(path: string, make: () => string): Promise<string> {
  const kept = await readIfThere(path);
  if (kept !== null) {
    return kept.trim();
  }
  const own = `${path}.${process.pid}`;
  await writeFile(own, `${make()}\n`, { mode: 0o600 });
  try {
    await link(own, path);
  } catch (error) {
    if (!isCode(error, "EEXIST")) {
      throw error;
    }
  } finally {
    await unlink(own);
  }
  return (await readFile(path, "utf8")).trim();
}

/** A file that cannot be read is not one that is not there: what it holds may have sealed credentials. */
async function readIfThere(path: string): Promise<string | null> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if (isCode(error, "ENOENT")) {
      return null;
    }
    throw error;
  }
}

function isCode(error: unknown, code: string): boolean {
  return error instanceof Error && "code" in error && error.code === code;
}

/** Write a text that only this user may read. It appears whole or not at all. Returns its path. */
export async function writeSecretFile(path: string, text: string): Promise<string> {
  await writeFile(`${path}.new`, `${text}\n`, { mode: 0o600 });
  await rename(`${path}.new`, path);
  return path;
}

/** The network that the configuration names. Throws when a part of it is not set. */
export function networkConfig({ stellar, dataDir }: Config, now: () => Date): NetworkConfig {
  if (stellar.network === "embedded") {
    return { name: "embedded", directory: dataDir, port: stellar.devnetPort, now };
  }
  return {
    name: stellar.network,
    horizonUrl: required("HORIZON_URL", stellar.horizonUrl),
    asset: {
      code: stellar.assetCode,
      issuer: required("STELLAR_ASSET_ISSUER", stellar.assetIssuer),
    },
    treasurySecret: required("STELLAR_TREASURY_SECRET", stellar.treasurySecret),
    channelSecret: required("STELLAR_CHANNEL_SECRET", stellar.channelSecret),
  };
}

function required(name: string, value: string | undefined): string {
  if (value === undefined) {
    throw new Error(`Cannot start: ${name} is not set`);
  }
  return value;
}

function ownPorts({ redisUrl }: Config, urls: string[]): number[] {
  const redis = redisUrl === undefined ? [] : [new URL(redisUrl)];
  const defaults: Readonly<Record<string, number>> = {
    "postgres:": 5432,
    "redis:": 6379,
    "rediss:": 6379,
  };
  return [...urls.map((url) => new URL(url)), ...redis].map((url) =>
    url.port === "" ? (defaults[url.protocol] ?? portOf(url)) : Number(url.port),
  );
}
