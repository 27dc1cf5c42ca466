import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Tx } from "../db/pool.ts";
import { identityOf, type NewEvent, type Repeats, type StoredEvent } from "./decide.ts";
import { statusOf, timeText, unitsOf } from "./entry.ts";

const storedRow = z.object({
  account_id: z.string(),
  received_month: z.string(),
  key: z.string(),
  body_hash: z.instanceof(Buffer),
});

/** Find events that are stored under identities in some months, by identity. */
export async function findStored(
  tx: Tx,
  { identities, months }: { identities: readonly (readonly string[])[]; months: string[] },
): Promise<Map<string, StoredEvent[]>> {
  const rows = await tx.any(sql.type(storedRow)`
    select stored.account_id, stored.received_month::text as received_month, stored.key,
      stored.body_hash
    from ${sql.unnest(identities, ["text", "text"])} as wanted (account_id, key)
    join usage_events as stored
      on stored.account_id = wanted.account_id and stored.key = wanted.key
    where stored.received_month = any(${sql.array(months, "date")})
    order by stored.received_month desc
  `);
  const stored = rows.map((row) => ({
    accountId: row.account_id,
    receivedMonth: row.received_month,
    key: row.key,
    hash: row.body_hash,
  }));
  return Map.groupBy(stored, identityOf);
}

/** Columns of an event, in their order, by type. */
const columns = {
  account_id: "text",
  received_month: "date",
  key: "text",
  source: "text",
  id: "text",
  mode: "text",
  api_id: "text",
  developer_account_id: "text",
  key_id: "text",
  endpoint: "text",
  status_code: "int4",
  occurred_at: "timestamptz",
  received_at: "timestamptz",
  booked_month: "date",
  price_version: "int4",
  fee_basis_points: "int4",
  units: "int8",
  charged_nanos: "int8",
  fee_nanos: "int8",
  leased_nanos: "int8",
  owed_nanos: "int8",
  charged_before_nanos: "int8",
  lease_id: "text",
  position: "int8",
  ordinal: "int4",
  body_hash: "bytea",
  data: "text",
  duplicates: "int4",
  conflicts: "int4",
} as const;

const columnList = sql.join(
  Object.keys(columns).map((name) => sql.identifier([name])),
  sql.fragment`, `,
);

function toRow(event: NewEvent) {
  const { entry, place } = event;
  const { price } = entry;
  return [
    entry.account,
    event.receivedMonth,
    event.key,
    entry.source,
    entry.id,
    entry.mode,
    price.apiId,
    price.developerId,
    entry.keyId,
    entry.endpoint,
    statusOf(entry),
    timeText(entry.timeMicros),
    event.receivedAt.toISOString(),
    event.bookedMonth,
    price.version,
    price.feeBasisPoints,
    unitsOf(entry).toString(),
    entry.chargedNanos.toString(),
    event.feeNanos.toString(),
    event.leasedNanos.toString(),
    event.owedNanos.toString(),
    event.chargedBefore.toString(),
    entry.lease,
    place.position.toString(),
    place.ordinal,
    event.hash,
    entry.data,
    event.duplicates,
    event.conflicts,
  ];
}

/** Insert events that are not there. In the order of their keys: neighbours of an index go into its same pages. */
export async function insertEvents(
  tx: Tx,
  events: readonly NewEvent[],
  { shard, batchPosition }: { shard: number; batchPosition: bigint },
): Promise<void> {
  if (events.length === 0) {
    return;
  }
  const sorted = [...events].sort(
    (a, b) => compare(a.entry.account, b.entry.account) || compare(a.key, b.key),
  );
  await tx.query(sql.type(nothing)`
    insert into usage_events (${columnList}, shard, batch_position)
    select event.*, ${shard}::int4, ${batchPosition}::int8
    from ${sql.unnest(sorted.map(toRow), Object.values(columns))} as event (${columnList})
  `);
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
  await tx.query(sql.type(nothing)`
    update usage_events as stored
    set duplicates = stored.duplicates + repeat.duplicates,
      conflicts = stored.conflicts + repeat.conflicts
    from ${sql.unnest(rows, ["text", "date", "text", "int4", "int4"])}
      as repeat (account_id, received_month, key, duplicates, conflicts)
    where stored.account_id = repeat.account_id and stored.received_month = repeat.received_month
      and stored.key = repeat.key
  `);
}
