import { realpath } from "node:fs/promises";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { EmbeddedPostgresError } from "./embedded-error.ts";
import {
  findPasswords,
  type Home,
  makeDataDir,
  type Passwords,
  prepareHome,
} from "./embedded-home.ts";
import { type DirectoryLock, type GuardedProcess, lockDirectory } from "./embedded-process.ts";
import { ensureDatabase, ensureRoles, roleUrl } from "./embedded-roles.ts";
import {
  choosePort,
  findPort,
  isFree,
  launchServer,
  rotateLog,
  stopServer,
  waitForOthers,
} from "./embedded-server.ts";

/** How to run the embedded PostgreSQL. */
export interface EmbeddedOptions {
  /** The cluster lives in its `postgres` folder, or where a link of that name leads. */
  dataDir: string;
  /** PostgreSQL settings that replace the defaults. */
  settings?: Record<string, string>;
  /** Told what happens, one sentence a call. */
  log?: (message: string) => void;
  /** Where root keeps what PostgreSQL's user could not reach below `dataDir`. */
  stateDir?: string;
  /** More unexpected ends than this within a minute, and the server is given up. */
  restartsPerMinuteMax?: number;
}

/** A running PostgreSQL that is restarted when it dies, and stops when this process does. */
export interface EmbeddedPostgres {
  urls: EmbeddedUrls;
  port: number;
  /** The postmaster's process id; another one after a restart. */
  readonly pid: number;
  /** Stop the server and wait until none of its processes is left. */
  stop(): Promise<void>;
  /** Hear when the server died and could not be brought back. */
  onLost(callback: (error: EmbeddedPostgresError) => void): void;
}

/** Connection strings by role. */
export interface EmbeddedUrls {
  owner: string;
  app: string;
  worker: string;
  superuser: string;
}

const restartAttemptsMax = 20;
const restartPauseMs = 250;
const startAttemptsMax = 3;
const connectTimeoutMs = 5_000;

/**
 * Start the PostgreSQL that npm installed: initialise it the first time, make Callora's database and
 * roles, and keep it running. Throws EmbeddedPostgresError: a DataDirInUseError when another process
 * has `dataDir`.
 */
export async function startEmbedded(options: EmbeddedOptions): Promise<EmbeddedPostgres> {
  try {
    const dataDir = await makeDataDir(options.dataDir);
    const lock = await lockDirectory(dataDir);
    const started = start({ ...options, dataDir }, lock);
    return await started.catch(async (error) => {
      await lock.release();
      throw error;
    });
  } catch (cause) {
    if (cause instanceof EmbeddedPostgresError) throw cause;
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new EmbeddedPostgresError(`Cannot start the embedded PostgreSQL: ${reason}`, { cause });
  }
}

/**
 * The connection strings of the PostgreSQL that another process of the same user runs on `dataDir`.
 * Null when none answers there.
 */
export async function attachEmbedded(dataDir: string): Promise<EmbeddedUrls | null> {
  const directory = await realpath(path.join(dataDir, "postgres")).catch(() => null);
  if (directory === null) return null;
  const passwords = await findPasswords(directory);
  const port = await findPort(directory);
  if (passwords === null || port === null) return null;
  const urls = urlsOf(passwords, port);
  const client = new pg.Client({
    connectionString: urls.owner,
    connectionTimeoutMillis: connectTimeoutMs,
  });
  client.on("error", () => {});
  try {
    // The passwords are this cluster's own: no other server on the port would let them in.
    await client.connect();
    await client.end();
    return urls;
  } catch {
    return null;
  }
}

async function start(options: EmbeddedOptions, lock: DirectoryLock): Promise<EmbeddedPostgres> {
  const { dataDir, settings = {}, stateDir = "/var/lib/callora" } = options;
  const logFile = path.join(dataDir, "postgres.log");
  await rotateLog(logFile);
  const isSynced = settings.fsync !== "off";
  const home = await prepareHome({ dataDir, stateDir, logFile, isSynced });
  const supervisor = new Supervisor({ ...options, home, logFile });
  try {
    const port = await supervisor.start();
    const urls = urlsOf(home.passwords, port);
    await makeContents(urls.superuser, home);
    supervisor.watch();
    return {
      urls,
      port,
      get pid() {
        return supervisor.pid;
      },
      async stop() {
        try {
          await supervisor.stop();
        } finally {
          await lock.release();
        }
      },
      onLost: (callback) => supervisor.onLost(callback),
    };
  } catch (error) {
    await supervisor.stop();
    throw error;
  }
}

function urlsOf(passwords: Passwords, port: number): EmbeddedUrls {
  const host = `127.0.0.1:${port}`;
  const { superuser, owner, app, worker } = passwords;
  const database = "callora";
  return {
    owner: roleUrl({ role: "callora_owner", password: owner, host, database }),
    app: roleUrl({ role: "callora_app", password: app, host, database }),
    worker: roleUrl({ role: "callora_worker", password: worker, host, database }),
    superuser: roleUrl({ role: "postgres", password: superuser, host, database: "postgres" }),
  };
}

/** Each start makes what is missing, so an interrupted first start needs no repair. */
async function makeContents(superuserUrl: string, home: Home): Promise<void> {
  const client = new pg.Client({
    connectionString: superuserUrl,
    connectionTimeoutMillis: connectTimeoutMs,
    statement_timeout: 60_000,
  });
  client.on("error", () => {});
  await client.connect();
  try {
    await ensureRoles(client, home.passwords);
    await ensureDatabase(client, "callora");
  } finally {
    await client.end();
  }
}

interface SupervisorOptions extends Pick<EmbeddedOptions, "settings" | "log"> {
  home: Home;
  logFile: string;
  restartsPerMinuteMax?: number;
}

class Supervisor {
  #options: SupervisorOptions;
  #port = 0;
  #server: GuardedProcess | null = null;
  #watching: Promise<void> = Promise.resolve();
  #stopped: Promise<void> | null = null;
  #lost: EmbeddedPostgresError | null = null;
  #listeners: ((error: EmbeddedPostgresError) => void)[] = [];

  constructor(options: SupervisorOptions) {
    this.#options = options;
  }

  get pid(): number {
    return this.#server?.pid ?? 0;
  }

  /** Start the server on a free port; another program may take that port in between. */
  async start(): Promise<number> {
    for (let attempt = 1; ; attempt++) {
      this.#port = await choosePort(this.#options.home);
      try {
        await this.#launch();
        return this.#port;
      } catch (error) {
        if (attempt === startAttemptsMax || (await isFree(this.#port))) throw error;
      }
    }
  }

  watch(): void {
    this.#watching = this.#restartWhenItEnds();
  }

  onLost(callback: (error: EmbeddedPostgresError) => void): void {
    this.#listeners.push(callback);
    if (this.#lost !== null) callback(this.#lost);
  }

  stop(): Promise<void> {
    this.#stopped ??= this.#stop();
    return this.#stopped;
  }

  async #stop(): Promise<void> {
    // The field is set only when this function first waits, and the watcher looks at it.
    await Promise.resolve();
    if (this.#server !== null) await stopServer(this.#server);
    await this.#watching;
    if (this.#server !== null) await stopServer(this.#server);
    await waitForOthers(this.#options.home.data);
  }

  #launch(): Promise<void> {
    return launchServer({
      home: this.#options.home,
      port: this.#port,
      settings: this.#options.settings ?? {},
      logFile: this.#options.logFile,
      onSpawn: (server) => {
        this.#server = server;
      },
      isCancelled: () => this.#stopped !== null,
    });
  }

  async #restartWhenItEnds(): Promise<void> {
    const { restartsPerMinuteMax = 5, log = () => {} } = this.#options;
    let endings: number[] = [];
    while (this.#server !== null) {
      const how = await this.#server.exited;
      if (this.#stopped !== null) return;
      const now = performance.now();
      endings = [...endings.filter((time) => now - time < 60_000), now];
      if (endings.length > restartsPerMinuteMax) {
        this.#giveUp(`it ended ${endings.length} times within a minute, last with ${how}`);
        return;
      }
      log(`The embedded PostgreSQL ended with ${how}; starting it again`);
      const failure = await this.#relaunch();
      if (this.#stopped !== null) return;
      if (failure !== null) {
        this.#giveUp(`it ended with ${how} and does not start again: ${failure}`);
        return;
      }
      log("The embedded PostgreSQL runs again");
    }
  }

  /** Start again on the same port, which clients know; return the last failure or null. */
  async #relaunch(): Promise<string | null> {
    let failure = "";
    for (let attempt = 0; attempt < restartAttemptsMax && this.#stopped === null; attempt++) {
      try {
        await this.#launch();
        return null;
      } catch (error) {
        failure = error instanceof Error ? error.message : String(error);
      }
      await sleep(restartPauseMs);
    }
    return failure;
  }

  #giveUp(reason: string): void {
    this.#lost = new EmbeddedPostgresError(`Cannot keep the embedded PostgreSQL: ${reason}`);
    for (const callback of this.#listeners) callback(this.#lost);
  }
}
