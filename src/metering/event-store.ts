import { sql } from "slonik";
import { outcomes } from "../catalog/price-rule.ts";
import { type Column, selectColumns } from "../db/columns.ts";
import { nothing, type Tx } from "../db/pool.ts";
import type { NewEvent, Repeats, StoredEvent } from "./decide.ts";
import { statusOf, unitsOf } from "./entry.ts";
import { sortByIdentity } from "./stored-events.ts";

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
