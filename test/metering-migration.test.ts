import { createHash } from "node:crypto";
import { expect, inject, test } from "vitest";
import { migrateDown, migrateUp } from "../src/db/migrate.ts";
import { newId } from "../src/lib/id.ts";
import { createJournal, getWatermark } from "../src/metering/journal.ts";
import { rerate } from "../src/metering/rerate.ts";
import { openDatabase } from "../src/server.ts";
import { newAccountId, projectAll, usage } from "./support/books.ts";
import { createDatabase } from "./support/cluster.ts";
import { asSuperuser } from "./support/superuser.ts";

const directory = "migrations";
const time = "2026-10-31T23:50:00.000Z";
const [account, developer] = [newAccountId(1), newAccountId()];

/** The hash that earlier versions gave to what RecordUsage was told. */
function hashOf(api: string): string {
  const hash = createHash("sha256");
  for (const part of [api, time, "GET /x", "200", "live"]) {
    hash.update(`${Buffer.byteLength(part)}:${part}`);
  }
  return hash.digest("hex");
}

/** An event as the journal held it. */
function jsonEvent(id: string, charged: number, more = {}) {
  const api = `api_${"0".repeat(26)}`;
  return {
    ...{ source: "test", id, account, developer, mode: "live", api, key: null },
    ...{ endpoint: "GET /x", status: 200, time, priceVersion: 1, feeBasisPoints: 1_000 },
    ...{ charged: String(charged), lease: null, hash: hashOf(api), ...more },
  };
}

/** Four rows, of which three are applied; with a duplicate, a conflict and an event that makes no sense. */
const rows = [
  [
    { ...jsonEvent("a", 1), charged: "-1" },
    jsonEvent("a", 105),
    jsonEvent("a", 105),
    jsonEvent("b", 207, { mode: "test" }),
  ],
  { no: "event" },
  [jsonEvent("c", 309, { lease: "lea_x" }), jsonEvent("a", 5, { hash: "0".repeat(64) })],
  [jsonEvent("d", 400)],
];

const applied = [
  { id: "a", charged: 105, mode: "live", position: 1, duplicates: 1, conflicts: 1 },
  { id: "b", charged: 207, mode: "test", position: 1, duplicates: 0, conflicts: 0 },
  { id: "c", charged: 309, mode: "live", position: 3, duplicates: 0, conflicts: 0 },
];

type Client = Parameters<Parameters<typeof asSuperuser>[1]>[0];

async function fill(client: Client): Promise<void> {
  await client.query("update journal_heads set position = 4");
  await client.query("update projector_cursors set position = 3");
  for (const [index, events] of rows.entries()) {
    await client.query(
      "insert into usage_journal (shard, position, events, appended_at) values (0, $1, $2, $3)",
      [index + 1, JSON.stringify(events), "2026-11-01T00:00:00Z"],
    );
  }
  for (const [position, ordinal, reason] of [
    [1, 0, "MALFORMED"],
    [2, 0, "MALFORMED"],
    [3, 1, "CONFLICT"],
  ] as const) {
    const row = rows[position - 1];
    await client.query(
      `insert into usage_quarantine (shard, position, ordinal, account_id, reason, event)
       values (0, $1, $2, '', $3, $4)`,
      [position, ordinal, reason, JSON.stringify(Array.isArray(row) ? row[ordinal] : row)],
    );
  }
  for (const { id, charged, mode, position, duplicates, conflicts } of applied) {
    const event = jsonEvent(id, charged);
    await client.query(
      `insert into usage_events (account_id, source, id, mode, api_id, developer_account_id, endpoint,
         status_code, occurred_at, price_version, charged_nanos, lease_id, shard, position, body_hash,
         duplicates, conflicts)
       values ($1, 'test', $2, $3, $4, $5, 'GET /x', 200, $6, 1, $7, $8, 0, $9, decode($10, 'hex'),
         $11, $12)`,
      [
        ...[account, id, mode, event.api, developer, time, charged, id === "c" ? "lea_x" : null],
        ...[position, event.hash, duplicates, conflicts],
      ],
    );
    await client.query(
      `insert into usage_rollups values ($1, $2, $3, '2026-10-31T23:45:00Z', 1, 0, $4)
       on conflict (account_id, mode, api_id, bucket) do update
       set charged_nanos = usage_rollups.charged_nanos + excluded.charged_nanos`,
      [account, mode, event.api, charged],
    );
    await client.query(
      `insert into ledger_transfers (account_id, id, mode, debit_kind, credit_kind, amount_nanos,
         source_type, source_id)
       values ($1, $2, $3, 'consumer_receivable', 'clearing', $4, 'usage', $5)`,
      [account, newId("trf", new Date()), mode, charged, position === 1 ? "0:1-2" : "0:3-3"],
    );
  }
  await client.query(
    `insert into revenue_totals values ($1, 'live', 1000, 414, 41), ($1, 'test', 1000, 207, 20)`,
    [developer],
  );
}

test("a database with usage is taken over: each event once, each sum the same", async () => {
  const database = await createDatabase(inject("cluster"));
  await using stack = new AsyncDisposableStack();
  stack.defer(() => database.drop());
  const { owner } = database.urls;
  await migrateDown(owner, { directory, to: 13 });
  await asSuperuser(database, fill);

  await migrateUp(owner, { directory });

  const { rows: events } = await asSuperuser(database, (client) =>
    client.query(
      `select id, key, mode, charged_nanos::int as charged, fee_nanos::int as fee, shard,
         position::int as position, ordinal, batch_position::int as batch, duplicates, conflicts,
         charged_before_nanos::int as before, leased_nanos::int as leased,
         received_month::text as received, booked_month::text as booked,
         tableoid::regclass::text as part
       from usage_events order by id`,
    ),
  );
  const common = {
    shard: 0,
    received: "2026-11-01",
    booked: "2026-10-01",
    part: "callora_parts.usage_events_202611",
  };
  expect(events).toEqual([
    {
      ...applied[0],
      ...common,
      key: "4:testa",
      fee: 10,
      ordinal: 1,
      batch: 2,
      before: 0,
      leased: 0,
    },
    {
      ...applied[1],
      ...common,
      key: "4:testb",
      fee: 20,
      ordinal: 3,
      batch: 2,
      before: 0,
      leased: 0,
    },
    // 10 % of 414 less what 105 gave.
    {
      ...{ ...applied[2], ...common, key: "4:testc", fee: 31, ordinal: 0, batch: 3 },
      ...{ before: 105, leased: 309 },
    },
  ]);

  const db = await openDatabase(database.urls);
  stack.defer(() => db.close());
  expect(await db.systemTransaction(getWatermark)).toMatchObject({ applied: 3n, durable: 4n });
  expect(await db.systemTransaction(rerate)).toMatchObject({
    charged: { live: 414n, test: 207n },
  });

  await projectAll(db);
  // What a sender says again after the update is the event that was there.
  const journal = createJournal({ db, onAppended: () => {} });
  const again = usage({ account, developer, time, charged: "105", id: "a" });
  await journal.append([again, { ...again, endpoint: "GET /other" }]);
  await projectAll(db);

  expect(await db.systemTransaction(getWatermark)).toMatchObject({ applied: 5n, durable: 5n });
  expect(await db.systemTransaction(rerate)).toMatchObject({
    charged: { live: 814n, test: 207n },
  });
  const { rows: sums } = await asSuperuser(database, (client) =>
    client.query(
      `select
         (select sum(charged_nanos)::int from usage_events where mode = 'live') as events,
         (select sum(charged_nanos)::int from usage_rollups where mode = 'live') as rollups,
         (
           select sum(amount_nanos)::int from ledger_transfers
           where mode = 'live' and source_type = 'usage' and credit_kind = 'clearing'
         ) as transfers,
         (select array_agg(distinct position::int order by position::int) from ledger_transfers) as positions,
         (select array_agg(array[duplicates, conflicts]) from usage_events where id = 'a') as repeats,
         (select sum(charged_nanos)::int from charge_totals where mode = 'live') as totals,
         (select min(booked_month)::text from usage_rollups) as booked`,
    ),
  );
  expect(sums).toEqual([
    {
      ...{ events: 814, rollups: 814, transfers: 814, positions: [2, 3, 4], repeats: [[2, 2]] },
      ...{ totals: 814, booked: "2026-10-01" },
    },
  ]);
});
