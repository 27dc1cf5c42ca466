import type pg from "pg";
import { type Figure, median, round } from "../figure.ts";
import type { Lot } from "./events.ts";
import type { World } from "./world.ts";

/**
 * What an event costs, from the door until it is applied, while the table holds few events and when it holds many.
 * Ids that grow with time have the bar; those in no order are measured beside them.
 */
export async function measureGrowth(
  world: World,
  { small, large, lot, rounds }: { small: number; large: number; lot: Lot; rounds: number },
): Promise<Figure[]> {
  await fillTo(world, small);
  const few = await measureCosts(world, lot, rounds);
  await fillTo(world, large);
  const many = await measureCosts(world, lot, rounds);
  return (["v7", "v4"] as const).map((ids) => ({
    name: `cost of an event among ${large} events, ids as UUID${ids}`,
    value: round(median(many[ids])),
    unit: "µs",
    peer: `among ${small}`,
    peerValue: round(median(few[ids])),
    ...(ids === "v7" ? { bar: { of: "ratio", limit: "at most", at: 1.3 } as const } : {}),
    n: rounds,
  }));
}

async function measureCosts(
  world: World,
  lot: Lot,
  rounds: number,
): Promise<{ v7: number[]; v4: number[] }> {
  const costs = { v7: [] as number[], v4: [] as number[] };
  for (const ids of ["v7", "v4"] as const) {
    // One kind after the other: what ids in no order leave to be written to the disk is not the cost of the others.
    await world.client.query("checkpoint");
    for (let done = 0; done < rounds; done++) {
      const sent = await world.send({ lot: { ...lot, ids }, batch: 500, inFlight: 8, rate: 0 });
      const elapsedMs = (await world.untilApplied()) - sent.beginMs;
      costs[ids].push((elapsedMs * 1000) / lot.count);
    }
  }
  return costs;
}

/** Fill the events up to so many, of this month, as they would be if they had come in. They cost nothing. */
async function fillTo({ client, market }: World, count: number): Promise<void> {
  const { rows } = await client.query("select count(*)::int as there from usage_events");
  const missing = count - rows[0].there;
  const [api] = market.apis;
  await withoutIndexes(client, () =>
    client.query(
      `insert into usage_events (
         account_id, received_month, key, source, id, mode, api_id, developer_account_id, endpoint,
         status_code, occurred_at, received_at, booked_month, price_version, fee_basis_points,
         units, charged_nanos, fee_nanos, charged_before_nanos, shard, position, ordinal,
         batch_position, body_hash
       )
       select ($1::text[])[1 + n % $2::int], month, '16:urn:bench:ingest' || id,
         'urn:bench:ingest', id, 'live', $3, $4, 'POST /v1/items/' || n % 7, 200, at, at, month, 1,
         1000, 1, 0, 0, 0, 0, 0, n, 0, sha256(id::bytea)
       from generate_series(1, $5::int) as n
       cross join lateral (
         select uuidv7(make_interval(secs => (n - $5::int) * 0.1))::text as id,
           now() - make_interval(secs => ($5::int - n) * 0.1) as at,
           date_trunc('month', now() at time zone 'UTC')::date as month
       ) as made`,
      [market.consumers, market.consumers.length - 1, api?.id, market.consumers[0], missing],
    ),
  );
  // Else it is done in the background, while others are measured: what was filled at once is looked through at once.
  await client.query("vacuum (analyze) usage_events");
}

/** Fill a table whose indexes are built again afterwards: that is several times as fast. */
async function withoutIndexes(client: pg.Client, fill: () => Promise<unknown>): Promise<void> {
  const key = await client.query<{ definition: string }>(
    `select pg_get_constraintdef(oid) as definition from pg_constraint
     where conname = 'usage_events_pkey'`,
  );
  const indexes = await client.query<{ name: string; definition: string }>(
    `select indexrelid::regclass::text as name,
       replace(pg_get_indexdef(indexrelid), ' ON ONLY ', ' ON ') as definition
     from pg_index where indrelid = 'usage_events'::regclass and not indisprimary`,
  );
  await client.query("alter table usage_events drop constraint usage_events_pkey");
  for (const { name } of indexes.rows) {
    await client.query(`drop index ${name}`);
  }
  await fill();
  await client.query(
    `alter table usage_events add constraint usage_events_pkey ${key.rows[0]?.definition}`,
  );
  for (const { definition } of indexes.rows) {
    await client.query(definition);
  }
}
