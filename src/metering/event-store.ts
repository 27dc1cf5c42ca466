import { sql } from "slonik";
import { z } from "zod";
import { outcomes } from "../catalog/price-rule.ts";
import { type Column, selectColumns } from "../db/columns.ts";
import { nothing, type Tx } from "../db/pool.ts";
import { beginTurn, inTurns } from "../lib/turns.ts";
import { identityOf, type NewEvent, type Repeats, type StoredEvent } from "./decide.ts";
import { statusOf, unitsOf } from "./entry.ts";

const storedRow = z.object({
  account_id: z.string(),
  received_month: z.string(),
  key: z.string(),
  body_hash: z.instanceof(Buffer),
});

/**
 * Find events that are stored under identities in some months (null: ever), by identity, the latest first.
 *
 * The limit, which no identity reaches, keeps this a look-up of each: a plan that reads whole months is never better.
 */
export async function findStored(
  tx: Tx,
  { identities, months }: { identities: readonly Identity[]; months: readonly string[] | null },
): Promise<Map<string, StoredEvent[]>> {
  const rows = await tx.any(sql.type(storedRow)`
    select stored.account_id, stored.received_month::text as received_month, stored.key,
      stored.body_hash
    from ${selectColumns(identities, identityColumns)} as wanted (account_id, key)
    cross join lateral (
      select account_id, received_month, key, body_hash from usage_events
      where account_id = wanted.account_id and key = wanted.key
        ${months === null ? sql.fragment`` : sql.fragment`and received_month = any(${sql.array([...months], "date")})`}
      limit 100
    ) as stored
  `);
  const stored = rows.map((row) => ({
    accountId: row.account_id,
    receivedMonth: row.received_month,
    key: row.key,
    hash: row.body_hash,
  }));
  // The latest first.
  stored.sort((a, b) => compare(b.receivedMonth, a.receivedMonth));
  return Map.groupBy(stored, identityOf);
}

/** What an event is known by. */
export type Identity = Pick<StoredEvent, "accountId" | "key">;

const identityColumns: Column<Identity>[] = [
  { type: "text", of: ({ accountId }) => accountId },
  { type: "text", of: ({ key }) => key },
];

/** Columns of an event. */
const columns: Record<string, Column<NewEvent>> = {
  account_id: { type: "text", of: ({ entry }) => entry.account },
  received_month: { type: "date", of: ({ receivedMonth }) => receivedMonth },
  key: { type: "text", of: ({ key }) => key },
  source: { type: "text", of: ({ entry }) => entry.source },
  id: { type: "text", of: ({ entry }) => entry.id },
  mode: { type: "text", of: ({ entry }) => entry.mode },
  api_id: { type: "text", of: ({ entry }) => entry.price.apiId },
  developer_account_id: { type: "text", of: ({ entry }) => entry.price.developerId },
  key_id: { type: "text", of: ({ entry }) => entry.keyId },
  endpoint: { type: "text", of: ({ entry }) => entry.endpoint },
  status_code: { type: "int4", of: ({ entry }) => statusOf(entry) },
  occurred_at: { type: "timestamptz", of: ({ entry }) => entry.timeMicros },
  received_at: {
    type: "timestamptz",
    of: ({ receivedAt }) => BigInt(receivedAt.getTime()) * 1_000n,
  },
  booked_month: { type: "date", of: ({ bookedMonth }) => bookedMonth },
  price_version: { type: "int4", of: ({ entry }) => entry.price.version },
  fee_basis_points: { type: "int4", of: ({ entry }) => entry.price.feeBasisPoints },
  units: { type: "int8", of: ({ entry }) => unitsOf(entry) },
  outcome: { type: "int4", of: ({ entry }) => outcomes.indexOf(entry.outcome) },
  units_before: { type: "int8", of: ({ entry }) => entry.unitsBefore },
  charged_nanos: { type: "int8", of: ({ entry }) => entry.chargedNanos },
  fee_nanos: { type: "int8", of: ({ feeNanos }) => feeNanos },
  leased_nanos: { type: "int8", of: ({ leasedNanos }) => leasedNanos },
  owed_nanos: { type: "int8", of: ({ owedNanos }) => owedNanos },
  charged_before_nanos: { type: "int8", of: ({ chargedBefore }) => chargedBefore },
  lease_id: { type: "text", of: ({ entry }) => entry.lease },
  position: { type: "int8", of: ({ place }) => place.position },
  ordinal: { type: "int4", of: ({ place }) => place.ordinal },
  body_hash: { type: "bytea", of: ({ hash }) => hash },
  data: { type: "text", of: ({ entry }) => entry.data },
  duplicates: { type: "int4", of: ({ duplicates }) => duplicates },
  conflicts: { type: "int4", of: ({ conflicts }) => conflicts },
};

const columnList = sql.join(
  Object.keys(columns).map((name) => sql.identifier([name])),
  sql.fragment`, `,
);

/** Events of one statement: to write more of them would keep calls waiting that only want to be acknowledged. */
const statementMax = 500;

/** Things in the order of the index of identities: neighbours are in its same pages. */
export async function sortByIdentity<T extends { key: string; entry: { account: string } }>(
  things: readonly T[],
): Promise<T[]> {
  const byAccount = new Map<string, T[]>();
  await inTurns(things, (thing) => {
    const { account } = thing.entry;
    const own = byAccount.get(account);
    if (own === undefined) {
      byAccount.set(account, [thing]);
    } else {
      own.push(thing);
    }
  });
  const sorted: T[] = [];
  const accounts = [...byAccount].sort(([a], [b]) => compare(a, b));
  await inTurns(
    accounts,
    ([, own]) => {
      sorted.push(...own.sort((a, b) => compare(a.key, b.key)));
    },
    beginTurn(1),
  );
  return sorted;
}

/** Insert events that are not there. In the order of the index: neighbours go into its same pages. */
export async function insertEvents(
  tx: Tx,
  events: readonly NewEvent[],
  { shard, batchPosition }: { shard: number; batchPosition: bigint },
): Promise<void> {
  if (events.length === 0) {
    return;
  }
  const sorted = await sortByIdentity(events);
  for (let begin = 0; begin < sorted.length; begin += statementMax) {
    const some = sorted.slice(begin, begin + statementMax);
    await tx.query(sql.prepared("insert_usage_events", nothing)`
      insert into usage_events (${columnList}, shard, batch_position)
      select event.*, ${shard}::int4, ${batchPosition}::int8
      from ${selectColumns(some, Object.values(columns))} as event (${columnList})
    `);
  }
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** Count that stored events came again. */
export async function addRepeats(
  tx: Tx,
  repeated: readonly (StoredEvent & Repeats)[],
): Promise<void> {
  if (repeated.length === 0) {
    return;
  }
  const rows = repeated.map(({ accountId, receivedMonth, key, duplicates, conflicts }) => [
    accountId,
    receivedMonth,
    key,
    duplicates,
    conflicts,
  ]);
  // Named beside the rows, so that no other month's partition is planned for.
  const months = [...new Set(repeated.map(({ receivedMonth }) => receivedMonth))];
  await tx.query(sql.type(nothing)`
    update usage_events as stored
    set duplicates = stored.duplicates + repeat.duplicates,
      conflicts = stored.conflicts + repeat.conflicts
    from ${sql.unnest(rows, ["text", "date", "text", "int4", "int4"])}
      as repeat (account_id, received_month, key, duplicates, conflicts)
    where stored.account_id = repeat.account_id and stored.received_month = repeat.received_month
      and stored.key = repeat.key and stored.received_month = any(${sql.array(months, "date")})
  `);
}
