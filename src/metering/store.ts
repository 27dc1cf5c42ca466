import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Queries, type Tx } from "../db/pool.ts";
import { encodeRow } from "./codec.ts";
import {
  bodyHash,
  identityKey,
  monthOf,
  type Place,
  statusOf,
  timeText,
  type UsageEntry,
  unitsOf,
} from "./entry.ts";
import { insertQuarantine } from "./quarantine.ts";

/** A usage entry, where in the journal it stands, and when the journal received it. */
export interface Placed {
  entry: UsageEntry;
  place: Place;
  receivedAt: Date;
}

const insertedRow = z.object({ account_id: z.string(), key: z.string() });

/** Columns of the events that are inserted, in their order, by type. */
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
  lease_id: "text",
  position: "int8",
  ordinal: "int4",
  body_hash: "bytea",
  data: "text",
} as const;

const columnList = sql.join(
  Object.keys(columns).map((name) => sql.identifier([name])),
  sql.fragment`, `,
);

function toRow({ entry, place, receivedAt }: Placed) {
  const { price } = entry;
  return [
    entry.account,
    receivedMonth(receivedAt),
    identityKey(entry.source, entry.id),
    entry.source,
    entry.id,
    entry.mode,
    price.apiId,
    price.developerId,
    entry.keyId,
    entry.endpoint,
    statusOf(entry),
    timeText(entry.timeMicros),
    receivedAt.toISOString(),
    monthOf(entry.timeMicros),
    price.version,
    price.feeBasisPoints,
    unitsOf(entry).toString(),
    entry.chargedNanos.toString(),
    entry.lease,
    place.position.toString(),
    place.ordinal,
    bodyHash(entry),
    entry.data,
  ];
}

function receivedMonth(receivedAt: Date): string {
  return monthOf(BigInt(receivedAt.getTime()) * 1_000n);
}

/**
 * Insert the events that are not there yet: not in the month in which they were received, nor in the two before.
 * Returns those that it inserted, by account and key.
 */
export async function insertEvents(
  tx: Tx,
  placed: readonly Placed[],
  { shard, last }: { shard: number; last: bigint },
): Promise<Map<string, Placed>> {
  const inserted = await tx.any(sql.type(insertedRow)`
    insert into usage_events (
      ${columnList}, shard, batch_position, fee_nanos, charged_before_nanos
    )
    select event.*, ${shard}::int4, ${last}::int8, 0, 0
    from ${sql.unnest(placed.map(toRow), Object.values(columns))} as event (${columnList})
    where not exists (
      select from usage_events as earlier
      where earlier.account_id = event.account_id and earlier.key = event.key
        and earlier.received_month < event.received_month
        and earlier.received_month >= (event.received_month - interval '2 months')::date
    )
    order by event.account_id, event.key
    on conflict (account_id, received_month, key) do nothing
    returning account_id, key
  `);
  const byIdentity = new Map(placed.map((one) => [identity(one.entry), one]));
  return new Map(
    inserted.flatMap(({ account_id, key }) => {
      const one = byIdentity.get(`${account_id} ${key}`);
      return one === undefined ? [] : [[`${account_id} ${key}`, one] as const];
    }),
  );
}

/** An event's identity, over all accounts. */
export function identity({ account, source, id }: UsageEntry): string {
  return `${account} ${identityKey(source, id)}`;
}

const storedRow = z.object({
  ordinal: z.number(),
  received_month: z.string(),
  same: z.boolean(),
});

/** Count events that came again: the same body is a duplicate, another one a conflict, which is kept. */
export async function markRepeats(
  tx: Tx,
  repeats: readonly Placed[],
  shard: number,
): Promise<void> {
  if (repeats.length === 0) {
    return;
  }
  const rows = repeats.map(({ entry, receivedAt }, index) => [
    index,
    entry.account,
    receivedMonth(receivedAt),
    identityKey(entry.source, entry.id),
    bodyHash(entry),
  ]);
  const compared = await tx.any(sql.type(storedRow)`
    select repeat.ordinal, stored.received_month::text as received_month,
      stored.body_hash = repeat.hash as same
    from ${sql.unnest(rows, ["int4", "text", "date", "text", "bytea"])}
      as repeat (ordinal, account_id, received_month, key, hash)
    join usage_events as stored on stored.account_id = repeat.account_id
      and stored.key = repeat.key and stored.received_month <= repeat.received_month
      and stored.received_month >= (repeat.received_month - interval '2 months')::date
  `);
  const counts = compared.flatMap(({ ordinal, received_month, same }) => {
    const entry = repeats[ordinal]?.entry;
    return entry === undefined
      ? []
      : [[entry.account, received_month, identityKey(entry.source, entry.id), +same, +!same]];
  });
  await tx.query(sql.type(nothing)`
    update usage_events as stored
    set duplicates = stored.duplicates + repeat.duplicates,
      conflicts = stored.conflicts + repeat.conflicts
    from (
      select account_id, received_month, key, sum(same)::int4 as duplicates,
        sum(other)::int4 as conflicts
      from ${sql.unnest(counts, ["text", "date", "text", "int4", "int4"])}
        as counted (account_id, received_month, key, same, other)
      group by account_id, received_month, key
    ) as repeat
    where stored.account_id = repeat.account_id and stored.key = repeat.key
      and stored.received_month = repeat.received_month
  `);
  const conflicting = compared.flatMap(({ ordinal, same }) => (same ? [] : [repeats[ordinal]]));
  await insertQuarantine(
    tx,
    conflicting.flatMap((one) =>
      one === undefined
        ? []
        : [
            {
              shard,
              place: one.place,
              accountId: one.entry.account,
              mode: one.entry.mode,
              reason: "CONFLICT" as const,
              detail: "another event has its identity",
              raw: encodeRow([one.entry]),
              chargedNanos: one.entry.chargedNanos,
            },
          ],
    ),
  );
}

const eventRow = z.object({
  source: z.string(),
  id: z.string(),
  account_id: z.string(),
  api_id: z.string(),
  mode: z.enum(["live", "test"]),
  endpoint: z.string(),
  status_code: z.number(),
  occurred_at: z.number(),
  received_at: z.number(),
  booked_month: z.string(),
  units: z.bigint(),
  data: z.string(),
  price_version: z.number(),
  charged_nanos: z.bigint(),
  position: z.bigint(),
  ordinal: z.number(),
  duplicates: z.number(),
  conflicts: z.number(),
});

/** An applied event. */
export type EventRow = z.infer<typeof eventRow>;

/** Find one of the account's applied events: the latest, when months lie between two of one identity. */
export function findEvent(
  db: Queries,
  { accountId, source, id }: { accountId: string; source: string; id: string },
): Promise<EventRow | null> {
  return db.maybeOne(sql.type(eventRow)`
    select source, id, account_id, api_id, mode, endpoint, status_code, occurred_at, received_at,
      booked_month::text as booked_month, units, data, price_version, charged_nanos, position,
      ordinal, duplicates, conflicts
    from usage_events
    where account_id = ${accountId} and key = ${identityKey(source, id)}
    order by received_month desc limit 1
  `);
}
