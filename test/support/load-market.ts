import pg from "pg";
import { insertServiceToken } from "../../src/accounts/service-token-store.ts";
import { mintToken } from "../../src/accounts/token.ts";
import { newId } from "../../src/lib/id.ts";
import { openDatabase } from "../../src/server.ts";
import type { Urls } from "./cluster.ts";
import { grant } from "./grant.ts";
import type { Market } from "./load-events.ts";

const feesBasisPoints = [1_000, 333, 2_999];

/** Make consumers with credit, the last one with little, and published APIs of developers whose prices are odd. */
export async function makeMarket(
  urls: Urls,
  { consumers: count, creditNanos }: { consumers: number; creditNanos: bigint },
): Promise<Market> {
  const now = new Date();
  const consumers = Array.from({ length: count }, () => newId("acc", now));
  const developers = feesBasisPoints.map(() => newId("acc", now));
  const apis = feesBasisPoints.map((basisPoints, index) => ({
    id: newId("api", now),
    accountId: developers[index] ?? "",
    basisPoints,
    callNanos: String(333_333 + 1_000_003 * index),
  }));
  const client = new pg.Client({ connectionString: urls.superuser });
  await client.connect();
  try {
    const accounts = [...consumers, ...developers];
    await client.query(
      "insert into accounts (account_id, name) select id, 'load' from unnest($1::text[]) as id",
      [accounts],
    );
    for (const api of apis) {
      await insertApi(client, api);
    }
    await client.query("insert into debt_limits (account_id, limit_nanos) values ($1, $2)", [
      consumers.at(-1),
      littleNanos,
    ]);
  } finally {
    await client.end();
  }
  const { token, hash } = mintToken("svc");
  const db = await openDatabase(urls);
  try {
    const service = { id: newId("svt", now), name: "load", hash, scopes: ["usage.record"] };
    await db.systemTransaction((tx) => insertServiceToken(tx, service));
    for (const accountId of consumers) {
      const isLast = accountId === consumers.at(-1);
      for (const mode of ["live", "test"] as const) {
        await grant(db, accountId, isLast ? littleNanos : creditNanos, mode);
      }
    }
  } finally {
    await db.close();
  }
  return { consumers, apis, token, endMs: now.getTime() - 60_000 };
}

/** What the last consumer has, and may owe: enough for some of its events. */
const littleNanos = 20_000_000n;

async function insertApi(
  client: pg.Client,
  api: { id: string; accountId: string; basisPoints: number; callNanos: string },
): Promise<void> {
  const slug = api.id.replace("_", "-");
  await client.query(
    `insert into apis (account_id, id, slug, name, state)
     values ($1, $2, $3, 'An API', 'published')`,
    [api.accountId, api.id, slug],
  );
  await client.query("insert into api_directory (api_id, account_id, slug) values ($1, $2, $3)", [
    api.id,
    api.accountId,
    slug,
  ]);
  await client.query(
    `insert into api_prices (account_id, api_id, version, call_nanos, fee_basis_points)
     values ($1, $2, 1, $3, $4)`,
    [api.accountId, api.id, api.callNanos, api.basisPoints],
  );
}
