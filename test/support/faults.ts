import { chmod, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pg from "pg";
import { type EmbeddedPostgres, startEmbedded } from "../../src/db/embedded.ts";
import { migrateUp } from "../../src/db/migrate.ts";
import { migrationsDirectory } from "../../src/db/migration-files.ts";
import { encodeRow } from "../../src/metering/codec.ts";
import { shardCount, shardOf, type UsageEntry } from "../../src/metering/entry.ts";
import type { Urls } from "./cluster.ts";
import type { LoadJob } from "./load-client.ts";
import type { Market } from "./load-events.ts";
import { readLoadLogs } from "./load-log.ts";
import { makeMarket } from "./load-market.ts";
import { judge, type Verdict } from "./load-oracle.ts";
import { type LoadProcess, startLoad } from "./load-process.ts";
import { makeDataDir, type Run, start } from "./process.ts";
import { readWatermark } from "./watermark.ts";

/** A server in a process of its own, which is started again on its port whenever it ends. */
export interface Supervised extends AsyncDisposable {
  readonly url: string;
  readonly starts: number;
  signal(name: NodeJS.Signals): void;
  /** What the last run has said. */
  words(): string;
}

/** A market on a PostgreSQL of its own that is durable, for servers and clients that faults befall. */
export interface Proving extends AsyncDisposable {
  readonly urls: Urls;
  readonly market: Market;
  readonly postgres: EmbeddedPostgres;
  /**
   * Start a server; `databaseUrls` may lead to the database by another way. The environment is read at each start.
   */
  serve(databaseUrls?: Urls, env?: Readonly<Record<string, string>>): Promise<Supervised>;
  load(job: Pick<LoadJob, "urls" | "seed"> & Partial<LoadJob>): LoadProcess;
  /** Put bytes that make no sense into the journal, past the door. */
  putMalformed(): Promise<void>;
  /** Put an event that cannot be applied into the journal, past the door. */
  putPoison(poison: Partial<UsageEntry>): Promise<void>;
  /** Wait until the journal is applied to its end, and judge; as if `tampering`, a statement, had been run before. */
  judge(tampering?: string): Promise<Verdict>;
  watermark(): Promise<{ durable: bigint; applied: bigint }>;
  /** A session that may do what no role of the server may. */
  superuser<T>(work: (client: pg.Client) => Promise<T>): Promise<T>;
}

const applyMsMax = 60_000;

/** Open a market. `parent`: where the database lives; a directory on the disk unless given. */
export async function openProving({ parent = tmpdir() } = {}): Promise<Proving> {
  const directory = await mkdtemp(join(parent, "callora-faults-"));
  // PostgreSQL's own user has to pass through when the tests run as root.
  await chmod(directory, 0o711);
  // Apart from the database, whose disk may be full.
  const logDirectory = await mkdtemp(join(tmpdir(), "callora-load-"));
  const stops: (() => PromiseLike<unknown>)[] = [directory, logDirectory].map(
    (path) => () => rm(path, { recursive: true, force: true, maxRetries: 10 }),
  );
  const close = async () => {
    for (const stop of stops.toReversed()) {
      await stop();
    }
  };
  try {
    // It dies as often as a test wants it to.
    const restartsPerMinuteMax = Number.POSITIVE_INFINITY;
    // For several servers, and for what those that were killed have left open.
    const settings = { max_connections: "200" };
    const postgres = await startEmbedded({ dataDir: directory, restartsPerMinuteMax, settings });
    stops.push(() => postgres.stop());
    await migrateUp(postgres.urls.owner, { directory: migrationsDirectory });
    const database = new URL(postgres.urls.superuser);
    database.pathname = new URL(postgres.urls.owner).pathname;
    const urls = { ...postgres.urls, superuser: database.href };
    const market = await makeMarket(urls, { consumers: 8, creditNanos: 5_000_000_000n });
    return proving({ urls, market, postgres, logDirectory, stops, close });
  } catch (error) {
    await close();
    throw error;
  }
}

function proving(world: {
  urls: Urls;
  market: Market;
  postgres: EmbeddedPostgres;
  logDirectory: string;
  stops: (() => PromiseLike<unknown>)[];
  close: () => Promise<void>;
}): Proving {
  const { urls, market, postgres, logDirectory, stops, close } = world;
  const logs: string[] = [];
  let malformed = 0;
  let poisoned = 0;

  async function superuser<T>(work: (client: pg.Client) => Promise<T>): Promise<T> {
    const client = new pg.Client({ connectionString: urls.superuser, statement_timeout: 60_000 });
    client.on("error", () => {});
    await client.connect();
    try {
      return await work(client);
    } finally {
      await client.end();
    }
  }

  const put = (body: Buffer, shard: number) =>
    superuser((client) => client.query(putRow, [shard, body]));

  return {
    urls,
    market,
    postgres,
    superuser,
    async serve(databaseUrls = urls, env = {}) {
      const dir = await makeDataDir();
      stops.push(() => dir[Symbol.asyncDispose]());
      const server = await supervise(dir.path, databaseUrls, env);
      stops.push(() => server[Symbol.asyncDispose]());
      return server;
    },
    load(job) {
      const logFile = join(logDirectory, `load-${logs.length}.log`);
      logs.push(logFile);
      const process = startLoad({
        market,
        logFile,
        workers: 4,
        batchMax: 40,
        pauseMs: 10,
        ...job,
      });
      stops.push(() => process[Symbol.asyncDispose]());
      return process;
    },
    watermark: () => superuser(readWatermark),
    async putMalformed() {
      await put(Buffer.from("fffe00ff", "hex"), malformed % shardCount);
      malformed += 1;
    },
    async putPoison(poison) {
      const entry = toPoison(market, poison, poisoned);
      await put(encodeRow([entry]), shardOf(entry.account, shardCount));
      poisoned += 1;
    },
    async judge(tampering = "") {
      await superuser(untilApplied);
      const history = readLoadLogs(logs);
      return superuser(async (client) => {
        await client.query(`begin; set local session_replication_role = replica; ${tampering}`);
        const verdict = await judge(client, { market, history, malformed, poisoned });
        await client.query("rollback");
        return verdict;
      });
    },
    [Symbol.asyncDispose]: close,
  };
}

/** Journal it as the server does: with the head's lock. */
const putRow = `
  with head as (update journal_head set position = position + 1 returning position)
  insert into usage_journal (position, shard, codec, body, entries)
  select position, $1, 1, $2, 1 from head
`;

function toPoison({ consumers, apis }: Market, poison: Partial<UsageEntry>, n: number): UsageEntry {
  const price = {
    apiId: apis[0]?.id ?? "",
    developerId: consumers[1] ?? "",
    version: 1,
    unitNanos: 1_000n,
    feeBasisPoints: 0,
    rule: "",
  };
  return {
    kind: "usage",
    account: consumers[n % consumers.length] ?? "",
    source: "urn:poison",
    id: String(n),
    price,
    endpoint: "GET /poison",
    status: 0,
    timeMicros: BigInt(Date.now()) * 1_000n,
    timeUnset: false,
    mode: "live",
    data: "",
    units: 0n,
    chargedNanos: 1_000n,
    lease: null,
    keyId: null,
    requestId: "",
    replays: null,
    outcome: "whole",
    unitsBefore: 0n,
    keptHash: null,
    ...poison,
  };
}

/** Wait until the journal is applied to its end. */
export async function untilApplied(client: pg.Client): Promise<void> {
  const deadline = performance.now() + applyMsMax;
  for (;;) {
    const { durable, applied } = await readWatermark(client);
    if (applied >= durable) {
      return;
    }
    if (performance.now() > deadline) {
      throw new Error(`the journal is applied to ${applied} of ${durable} after ${applyMsMax} ms`);
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function supervise(
  dataDir: string,
  urls: Urls,
  more: Readonly<Record<string, string>>,
): Promise<Supervised> {
  const env = {
    DATABASE_URL: urls.app,
    DATABASE_WORKER_URL: urls.worker,
    DATABASE_MIGRATE_URL: urls.owner,
    CALLORA_ADMIN_PASSWORD: "a password for the admin",
  };
  let run: Run = start(dataDir, { ...env, ...more });
  let [starts, isClosing] = [1, false];
  const url = await run.url();
  const ended = keep();

  async function keep(): Promise<void> {
    for (;;) {
      await run.exited;
      if (isClosing) {
        return;
      }
      run = start(dataDir, { ...env, ...more, PORT: new URL(url).port });
      starts += 1;
    }
  }

  return {
    url,
    get starts() {
      return starts;
    },
    signal: (name) => run.kill(name),
    words: () => run.stdout + run.stderr,
    async [Symbol.asyncDispose]() {
      isClosing = true;
      run.kill("SIGCONT");
      run.kill("SIGTERM");
      await ended;
    },
  };
}
