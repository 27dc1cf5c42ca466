import { execFile } from "node:child_process";
import { chmod, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import pg from "pg";
import { startEmbedded } from "../../src/db/embedded.ts";
import { migrateUp } from "../../src/db/migrate.ts";
import { migrationsDirectory } from "../../src/db/migration-files.ts";
import type { Urls } from "../../test/support/cluster.ts";
import type { Market } from "../../test/support/load-events.ts";
import { makeMarket } from "../../test/support/load-market.ts";
import { makeDataDir, start } from "../../test/support/process.ts";
import { readWatermark } from "../../test/support/watermark.ts";
import { loadNodeArgs } from "../load-node.ts";
import type { Job, Outcome } from "./load.ts";

const execute = promisify(execFile);

/** A server as `npm start` runs it, on a PostgreSQL that is durable. */
export interface World extends AsyncDisposable {
  readonly market: Market;
  readonly url: string;
  /** A directory that PostgreSQL's user can read in. */
  readonly directory: string;
  readonly urls: Urls;
  readonly client: pg.Client;
  send(job: Omit<Job, "port" | "market">): Promise<Outcome>;
  /** Up to where the journal is applied. */
  applied(): Promise<number>;
  /** Wait until the journal is applied to its end. Returns when that was. */
  untilApplied(): Promise<number>;
  /** Throws unless all that was applied since is counted alike, wherever it is. */
  checkSums(): Promise<void>;
}

/** What a server of this size would be given; the peers have the same. */
const settings = { shared_buffers: "512MB", max_wal_size: "4GB", checkpoint_timeout: "15min" };

/** Start it all. */
export async function openWorld(): Promise<World> {
  const directory = await mkdtemp(join(tmpdir(), "callora-bench-"));
  await chmod(directory, 0o711);
  const postgres = await startEmbedded({ dataDir: directory, settings });
  await migrateUp(postgres.urls.owner, { directory: migrationsDirectory });
  const database = new URL(postgres.urls.superuser);
  database.pathname = new URL(postgres.urls.owner).pathname;
  const urls = { ...postgres.urls, superuser: database.href };
  const market = await makeMarket(urls, { consumers: 101, creditNanos: 100_000_000_000_000n });
  const client = new pg.Client({ connectionString: urls.superuser });
  await client.connect();
  const dataDir = await makeDataDir();
  const server = start(dataDir.path, {
    DATABASE_URL: urls.app,
    DATABASE_WORKER_URL: urls.worker,
    DATABASE_MIGRATE_URL: urls.owner,
  });
  const endServer = () => server.kill("SIGKILL");
  // The server has a group of its own: it would outlive a bench that is told to stop.
  const stop = () => process.exit(1);
  process.once("exit", endServer).once("SIGINT", stop).once("SIGTERM", stop);
  const url = await server.url();
  return {
    market,
    url,
    directory,
    urls,
    client,
    async send(job) {
      const script = fileURLToPath(new URL("load.ts", import.meta.url));
      const whole: Job = { ...job, market, port: Number(new URL(url).port) };
      const options = { maxBuffer: 100_000_000 };
      const { stdout } = await execute(
        process.execPath,
        [...loadNodeArgs, script, JSON.stringify(whole)],
        options,
      );
      return JSON.parse(stdout);
    },
    applied: async () => Number((await readWatermark(client)).applied),
    async untilApplied() {
      for (;;) {
        const { durable, applied } = await readWatermark(client);
        if (applied >= durable) {
          return Date.now();
        }
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
    },
    checkSums: () => checkSums(client),
    async [Symbol.asyncDispose]() {
      server.kill("SIGTERM");
      await server.exited;
      process.off("exit", endServer).off("SIGINT", stop).off("SIGTERM", stop);
      await client.end();
      await dataDir[Symbol.asyncDispose]();
      await postgres.stop();
      await rm(directory, { recursive: true });
    },
  };
}

async function checkSums(client: pg.Client): Promise<void> {
  const { rows } = await client.query(
    `select
       (select coalesce(sum(charged_nanos), 0) from usage_events)::text as events,
       (select coalesce(sum(charged_nanos), 0) from usage_rollups)::text as rollups,
       (select coalesce(sum(amount_nanos), 0) from ledger_transfers
        where source_type = 'usage' and credit_kind = 'clearing')::text as debits,
       (select coalesce(sum(amount_nanos), 0) from ledger_transfers
        where source_type = 'usage' and debit_kind = 'clearing')::text as credits`,
  );
  const { events, rollups, debits, credits } = rows[0];
  if (new Set([events, rollups, debits, credits]).size !== 1) {
    throw new Error(`Cannot measure: the sums differ: ${JSON.stringify(rows[0])}`);
  }
}
