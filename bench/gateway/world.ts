import { randomUUID } from "node:crypto";
import { chmod, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pg from "pg";
import { CatalogService, DeliveryMode } from "../../gen/callora/catalog/v1/catalog_service_pb.ts";
import { KeyService } from "../../gen/callora/keys/v1/key_service_pb.ts";
import { LimitService } from "../../gen/callora/limits/v1/limit_service_pb.ts";
import { RateClass } from "../../gen/callora/policy/v1/policy_pb.ts";
import { createUser } from "../../src/accounts/users.ts";
import type { Database } from "../../src/db/database.ts";
import { startEmbedded } from "../../src/db/embedded.ts";
import { migrateUp } from "../../src/db/migrate.ts";
import { migrationsDirectory } from "../../src/db/migration-files.ts";
import { openDatabase } from "../../src/server.ts";
import type { Urls } from "../../test/support/cluster.ts";
import { grant } from "../../test/support/grant.ts";
import { clientOf, makeDataDir, type Run, start } from "../../test/support/process.ts";
import { makeToken } from "../../test/support/tokens.ts";
import { readWatermark } from "../../test/support/watermark.ts";
import type { CallTarget } from "./load.ts";
import { startUpstream } from "./nginx.ts";
import type { Served } from "./servers.ts";

/** What a call costs, in nano-USDC. */
export const price = 1_000_000n;

/** More calls than a bench makes. */
const callsPaid = 10_000_000n;

/** How replies wait for their event. */
export type Delivery = "durable" | "async";

/** A server of ours. */
export interface GatewayProcess extends Served {
  /** Kill it at once. Resolves when it is gone. */
  kill(): Promise<void>;
}

/** A consumer with credit, and a key for all APIs that is not limited. */
export interface Consumer {
  readonly accountId: string;
  readonly secret: string;
}

/** A durable PostgreSQL, an upstream, and two APIs in front of it whose calls cost the same. */
export interface GatewayWorld extends AsyncDisposable {
  readonly directory: string;
  readonly upstream: Served;
  readonly client: pg.Client;
  readonly postgresPid: number;
  /** Where a call of the API goes on that server. */
  target(server: Served, delivery: Delivery, consumer: Consumer, path?: string): CallTarget;
  startServer(): Promise<GatewayProcess>;
  /** `server` takes the calls that it needs. */
  makeConsumer(server: Served, calls?: bigint): Promise<Consumer>;
  /** Wait until the journal is applied to its end. */
  untilApplied(): Promise<void>;
}

/** What a server of this size would be given. */
const settings = { shared_buffers: "512MB", max_wal_size: "4GB", checkpoint_timeout: "15min" };

/** Start the database and the upstream, and make the APIs by a server that is stopped again. */
export async function openGatewayWorld(): Promise<GatewayWorld> {
  const directory = await mkdtemp(join(tmpdir(), "callora-bench-"));
  await chmod(directory, 0o711);
  const parts = new AsyncDisposableStack();
  parts.defer(() => rm(directory, { recursive: true }));
  try {
    const postgres = await startEmbedded({ dataDir: join(directory, "data"), settings });
    parts.defer(() => postgres.stop());
    await migrateUp(postgres.urls.owner, { directory: migrationsDirectory });
    const database = new URL(postgres.urls.superuser);
    database.pathname = new URL(postgres.urls.owner).pathname;
    const client = new pg.Client({ connectionString: database.href });
    await client.connect();
    parts.defer(() => client.end());
    const postgresPid = await readPostgresPid(client);
    const upstream = parts.use(await startUpstream(directory));
    const db = await openDatabase(postgres.urls);
    parts.defer(() => db.close());
    const startServer = () => startGateway(postgres.urls);
    const slugs = await withServer(startServer, (server) => makeApis(db, server, upstream.url));
    return {
      directory,
      upstream,
      client,
      postgresPid,
      target: ({ url }, delivery, { secret }, path = "items/1") => ({
        url: `${url}/v1/call/${slugs[delivery]}/${path}`,
        secret,
      }),
      startServer,
      makeConsumer: (server, calls = callsPaid) => makeConsumer(db, server, calls),
      async untilApplied() {
        for (;;) {
          const { durable, applied } = await readWatermark(client);
          if (applied >= durable) {
            return;
          }
          await new Promise((resolve) => setTimeout(resolve, 5));
        }
      },
      [Symbol.asyncDispose]: () => parts.disposeAsync(),
    };
  } catch (error) {
    await parts.disposeAsync();
    throw error;
  }
}

async function readPostgresPid(client: pg.Client): Promise<number> {
  const { rows } = await client.query("select pg_read_file('postmaster.pid') as text");
  return Number(String(rows[0].text).split("\n")[0]);
}

async function withServer<T>(
  startServer: () => Promise<GatewayProcess>,
  work: (server: GatewayProcess) => Promise<T>,
): Promise<T> {
  await using server = await startServer();
  return await work(server);
}

/** `npm start` on a database that is there, on the core of what is measured. */
async function startGateway(urls: Urls): Promise<GatewayProcess> {
  const dataDir = await makeDataDir();
  const run: Run = start(dataDir.path, {
    DATABASE_URL: urls.app,
    DATABASE_WORKER_URL: urls.worker,
    DATABASE_MIGRATE_URL: urls.owner,
  });
  const kill = () => run.kill("SIGKILL");
  // The server has a group of its own: it would outlive a bench that is told to stop.
  const stop = () => process.exit(1);
  process.once("exit", kill).once("SIGINT", stop).once("SIGTERM", stop);
  const url = await run.url();
  return {
    url,
    pid: run.pid,
    async kill() {
      kill();
      await run.exited;
    },
    async [Symbol.asyncDispose]() {
      run.kill("SIGTERM");
      await run.exited;
      process.off("exit", kill).off("SIGINT", stop).off("SIGTERM", stop);
      await dataDir[Symbol.asyncDispose]();
    },
  };
}

async function makeApis(
  db: Database,
  { url }: Served,
  upstreamUrl: string,
): Promise<Readonly<Record<Delivery, string>>> {
  const { token } = await makePerson(db, "developer");
  const catalog = clientOf(CatalogService, url, token);
  const slugs = { durable: "bench-durable", async: "bench-async" };
  for (const [slug, delivery] of [
    [slugs.durable, DeliveryMode.DURABLE],
    [slugs.async, DeliveryMode.ASYNC],
  ] as const) {
    const api = { name: slug, slug, upstreamUrl, callNanos: price, settings: { delivery } };
    const draft = await catalog.createApi(api);
    await catalog.publishApi({ apiId: draft.api?.id ?? "" });
  }
  return slugs;
}

async function makeConsumer(db: Database, { url }: Served, calls: bigint): Promise<Consumer> {
  const consumer = await makePerson(db, "user");
  await grant(db, consumer.accountId, calls * price);
  const { secret, key } = await clientOf(KeyService, url, consumer.token).createKey({});
  const admin = await makePerson(db, "super_admin");
  await clientOf(LimitService, url, admin.token).setRateOverride({
    accountId: consumer.accountId,
    subjectId: key?.id ?? "",
    rateClass: RateClass.V1,
    perMinute: 6_000_000,
    burst: 1_000_000,
  });
  return { accountId: consumer.accountId, secret };
}

async function makePerson(db: Database, role: "user" | "developer" | "super_admin") {
  const person = { username: `bench-${randomUUID()}`, email: "", role };
  const user = await db.systemTransaction((tx) => createUser(tx, person, new Date()));
  if (user === null) {
    throw new Error("Cannot measure: the person's name is taken");
  }
  const { account_id: accountId, id: userId } = user;
  return { accountId, token: await makeToken(db, { accountId, userId }) };
}
