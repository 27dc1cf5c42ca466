import { randomBytes } from "node:crypto";
import { existsSync, rmSync } from "node:fs";
import { access, chmod, constants, mkdtemp, readdir, rm, statfs } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import pg from "pg";
import { startEmbedded } from "../../src/db/embedded.ts";
import { ensureDatabase, ensureRoles } from "../../src/db/embedded-roles.ts";
import { migrateUp } from "../../src/db/migrate.ts";

/** Connection strings by role. */
export interface Urls {
  superuser: string;
  owner: string;
  app: string;
  worker: string;
}

/** What a test's process needs to make its own database; plain data, so that it can be handed over. */
export interface ClusterInfo {
  /** The superuser's is for the database `postgres`. */
  urls: Urls;
  /** The name of the template database, and what the names of the others begin with. */
  template: string;
}

/** The PostgreSQL of one run of the tests. */
export interface Cluster {
  info: ClusterInfo;
  /** Make the template: one migrated database that all others are copies of. */
  createTemplate(migrationsDir: string): Promise<void>;
  createDatabase(): Promise<TestDatabase>;
  /** Stop the server and remove its files; on a server that was given, drop the run's databases. */
  stop(): Promise<void>;
}

/** A database of one test file. */
export interface TestDatabase {
  name: string;
  urls: Urls;
  drop(): Promise<void>;
}

const directoryPrefix = "callora-test-";
const advisoryKey = 4_116_201_710;
const memoryDirectory = "/dev/shm";
const memoryBytesMin = 2_000_000_000;
const settings = {
  fsync: "off",
  synchronous_commit: "off",
  full_page_writes: "off",
  autovacuum: "off",
  max_connections: "200",
};

/**
 * Start the PostgreSQL of a test run: a throwaway one, or the server of `serverUrl` (a superuser's
 * connection string). Nothing is left of it when the run ends, however it ends.
 */
export function startCluster(serverUrl = process.env.TEST_DATABASE_URL): Promise<Cluster> {
  return serverUrl ? useServer(serverUrl) : startThrowaway();
}

/** Copy the template to a new database, from any process. */
export async function createDatabase({ urls, template }: ClusterInfo): Promise<TestDatabase> {
  const name = `${template}_${randomBytes(6).toString("hex")}`;
  await asSuperuser(urls.superuser, async (client) => {
    // One at a time: a template that another session has open cannot be copied.
    await client.query("select pg_advisory_lock($1)", [advisoryKey]);
    await client.query(
      `create database ${name} template ${template} strategy file_copy owner callora_owner`,
    );
    await ensureDatabase(client, name);
  });
  const drop = () => asSuperuser(urls.superuser, (client) => dropDatabase(client, name));
  return { name, urls: urlsFor(urls, name), drop };
}

async function startThrowaway(): Promise<Cluster> {
  for (const parent of [memoryDirectory, os.tmpdir()]) await sweep(parent);
  const parent = await fastDirectory();
  const directory = await mkdtemp(path.join(parent, `${directoryPrefix}${process.pid}-`));
  // PostgreSQL's own user has to pass through when the tests run as root.
  await chmod(directory, 0o711);
  const remove = () => rm(directory, { recursive: true, force: true, maxRetries: 10 });
  const postgres = await startEmbedded({ dataDir: directory, settings }).catch(async (error) => {
    await remove();
    throw error;
  });
  const onExit = () => {
    try {
      process.kill(postgres.pid, "SIGQUIT");
    } catch {}
    rmSync(directory, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 });
  };
  let stopped: Promise<void> | null = null;
  const stop = () => {
    stopped ??= postgres.stop().then(remove);
    return stopped.finally(() => {
      process.off("exit", onExit).off("SIGINT", onSignal).off("SIGTERM", onSignal);
    });
  };
  const onSignal = (signal: NodeJS.Signals) => {
    const again = () => void process.kill(process.pid, signal);
    stop().then(again, again);
  };
  process.once("exit", onExit).once("SIGINT", onSignal).once("SIGTERM", onSignal);
  return toCluster({ urls: postgres.urls, template: "callora_template" }, stop);
}

/**
 * Where directories for tests are best made. Copying the template took 30 ms in memory and 350 ms on
 * a slow disk.
 */
export async function fastDirectory(): Promise<string> {
  return (await hasRoom(memoryDirectory)) ? memoryDirectory : os.tmpdir();
}

async function hasRoom(directory: string): Promise<boolean> {
  try {
    await access(directory, constants.W_OK);
    const { bavail, bsize } = await statfs(directory);
    return bavail * bsize > memoryBytesMin;
  } catch {
    return false;
  }
}

/** Remove what runs that were killed have left; a directory's name says whose it is. */
async function sweep(parent: string): Promise<void> {
  for (const entry of await readdir(parent).catch(() => [])) {
    const pid = new RegExp(`^${directoryPrefix}(\\d+)-`).exec(entry)?.[1];
    if (pid === undefined || process.platform !== "linux" || existsSync(`/proc/${pid}`)) continue;
    await rm(path.join(parent, entry), { recursive: true, force: true }).catch(() => {});
  }
}

async function useServer(superuserUrl: string): Promise<Cluster> {
  const password = "callora_test";
  await asSuperuser(superuserUrl, async (client) => {
    await client.query("select pg_advisory_lock($1)", [advisoryKey]);
    await ensureRoles(client, { owner: password, app: password, worker: password });
  });
  const template = `callora_template_${randomBytes(4).toString("hex")}`;
  const urls = {
    superuser: superuserUrl,
    owner: asRole(superuserUrl, "callora_owner", password),
    app: asRole(superuserUrl, "callora_app", password),
    worker: asRole(superuserUrl, "callora_worker", password),
  };
  const stop = () => {
    return asSuperuser(superuserUrl, async (client) => {
      const found = await client.query("select datname from pg_database where datname ^@ $1", [
        template,
      ]);
      for (const { datname } of found.rows) await dropDatabase(client, datname);
    });
  };
  return toCluster({ urls, template }, stop);
}

function toCluster(info: ClusterInfo, stop: () => Promise<void>): Cluster {
  const { urls, template } = info;
  return {
    info,
    stop,
    createDatabase: () => createDatabase(info),
    async createTemplate(migrationsDir) {
      await asSuperuser(urls.superuser, async (client) => {
        await dropDatabase(client, template);
        await ensureDatabase(client, template);
      });
      await migrateUp(urlsFor(urls, template).owner, { directory: migrationsDir });
    },
  };
}

function urlsFor(urls: Urls, database: string): Urls {
  const change = (url: string) => Object.assign(new URL(url), { pathname: `/${database}` }).href;
  const { superuser, owner, app, worker } = urls;
  return {
    superuser: change(superuser),
    owner: change(owner),
    app: change(app),
    worker: change(worker),
  };
}

function asRole(url: string, username: string, password: string): string {
  return Object.assign(new URL(url), { username, password }).href;
}

async function dropDatabase(client: pg.Client, name: string): Promise<void> {
  await client.query(`drop database if exists ${client.escapeIdentifier(name)} with (force)`);
}

async function asSuperuser(url: string, work: (client: pg.Client) => Promise<void>): Promise<void> {
  const client = new pg.Client({
    connectionString: url,
    connectionTimeoutMillis: 10_000,
    statement_timeout: 60_000,
  });
  client.on("error", () => {});
  await client.connect();
  try {
    await work(client);
  } finally {
    await client.end();
  }
}
