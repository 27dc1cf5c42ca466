import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Queries, type Tx } from "../db/pool.ts";
import { timeText } from "./entry.ts";
import { chunks, decimalOf, type MeterSum, sorted, sumKeyTypes, toKey } from "./meter-sums.ts";

const removedRow = z.object({ month: z.string().nullable() });

const dayMs = 86_400_000;

/**
 * The time from which on all events are still there, in milliseconds: those of earlier quarters of an hour may be
 * removed. Zero when none are.
 */
export async function findRemovedMs(db: Queries): Promise<number> {
  const { month } = await db.one(sql.type(removedRow)`
    select (max(received_month) + interval '1 month')::date::text as month from usage_partition_totals
  `);
  // An event may come some minutes before its own time, but no day.
  return month === null ? 0 : Date.parse(`${month}T00:00:00Z`) + dayMs;
}

const goneTypes = [
  "int8",
  "int8",
  "numeric",
  "numeric",
  "numeric",
  "timestamptz",
  "int8",
  "int4",
  "bool",
];

const quarterRow = z.object({
  account_id: z.string(),
  meter_id: z.string(),
  mode: z.enum(["live", "test"]),
  bucket: z.number(),
});

/** A quarter of an hour of a meter. */
type Quarter = z.infer<typeof quarterRow>;

/**
 * Take what voided events came to from the sums of their quarters of an hour. Counts and totals are right at once. A
 * least, greatest, latest or different value that may be gone is forgotten, and its quarter is noted for
 * `recountNextMeter`; where events of the quarter are removed, from which it cannot be found again, it stays.
 *
 * Their meters are held: nobody counts them anew meanwhile. Who adds to a sum holds its row first, so that it comes
 * either before this or after it.
 */
export async function takeFromSums(
  tx: Tx,
  gone: readonly MeterSum[],
  removedMs: number,
): Promise<void> {
  for (const sums of chunks(sorted(gone))) {
    await holdSums(tx, sums);
    const forgotten = await subtract(
      tx,
      sums.map((sum) => toGoneRow(sum, removedMs)),
    );
    const values = sums.flatMap((sum) => (sum.bucketMs >= removedMs ? toValueRows(sum) : []));
    await noteRecounts(tx, [...forgotten, ...(await deleteUniques(tx, values))]);
    await deleteEmpty(tx, sums);
  }
}

function toValueRows(sum: MeterSum): string[][] {
  return [...sum.sums.uniques].map((hash) => [...toKey(sum), hash]);
}

function toGoneRow(sum: MeterSum, removedMs: number): (string | number | boolean | null)[] {
  const { events, skipped, total, least, greatest, latest } = sum.sums;
  return [
    ...toKey(sum),
    events,
    skipped,
    decimalOf(total),
    decimalOf(least),
    decimalOf(greatest),
    latest === null ? null : timeText(latest.timeMicros),
    latest === null ? null : latest.position.toString(),
    latest?.ordinal ?? null,
    sum.bucketMs >= removedMs,
  ];
}

/** In the order of everybody who changes sums. */
async function holdSums(tx: Tx, sums: readonly MeterSum[]): Promise<void> {
  await tx.query(sql.type(nothing)`
    select from meter_rollups
    where (account_id, meter_id, mode, group_key, bucket)
      in (select * from ${sql.unnest(sums.map(toKey), sumKeyTypes)})
    order by account_id, meter_id, mode, group_key, bucket
    for update
  `);
}

/** Returns where a value has to be found anew. */
function subtract(
  tx: Tx,
  rows: readonly (readonly (string | number | boolean | null)[])[],
): Promise<readonly Quarter[]> {
  return tx.any(sql.type(quarterRow)`
    with gone as (
      select * from ${sql.unnest(rows, [...sumKeyTypes, ...goneTypes])} as gone (
        account_id, meter_id, mode, group_key, bucket, events, skipped, total, least, greatest,
        latest_at, latest_position, latest_ordinal, is_whole
      )
    ), changed as (
      update meter_rollups as rollup set
        events = rollup.events - gone.events,
        skipped = rollup.skipped - gone.skipped,
        total = case when rollup.events > gone.events
          then rollup.total - coalesce(gone.total, 0) end,
        least = case when rollup.events > gone.events
          and (gone.is_whole and rollup.least = gone.least) is not true then rollup.least end,
        greatest = case when rollup.events > gone.events
          and (gone.is_whole and rollup.greatest = gone.greatest) is not true
          then rollup.greatest end,
        (latest, latest_at, latest_position, latest_ordinal) = (
          select rollup.latest, rollup.latest_at, rollup.latest_position, rollup.latest_ordinal
          where rollup.events > gone.events and (
            gone.is_whole
            and (rollup.latest_at, rollup.latest_position, rollup.latest_ordinal)
              = (gone.latest_at, gone.latest_position, gone.latest_ordinal)
          ) is not true
        )
      from gone
      where rollup.account_id = gone.account_id and rollup.meter_id = gone.meter_id
        and rollup.mode = gone.mode and rollup.group_key = gone.group_key
        and rollup.bucket = gone.bucket
      returning rollup.account_id, rollup.meter_id, rollup.mode, rollup.bucket,
        rollup.events > 0 and (
          (gone.least is not null and rollup.least is null)
          or (gone.greatest is not null and rollup.greatest is null)
          or (gone.latest_at is not null and rollup.latest_at is null)
        ) as is_forgotten
    )
    select distinct account_id, meter_id, mode, bucket from changed where is_forgotten
  `);
}

/** Values that another event may have, too. Returns where they were. */
async function deleteUniques(tx: Tx, rows: readonly string[][]): Promise<readonly Quarter[]> {
  if (rows.length === 0) {
    return [];
  }
  return await tx.any(sql.type(quarterRow)`
    with deleted as (
      delete from meter_uniques where (account_id, meter_id, mode, group_key, bucket, value_hash) in (
        select account_id, meter_id, mode, group_key, bucket, decode(hash, 'hex')
        from ${sql.unnest(rows, [...sumKeyTypes, "text"])}
          as value (account_id, meter_id, mode, group_key, bucket, hash)
      )
      returning account_id, meter_id, mode, bucket
    )
    select distinct account_id, meter_id, mode, bucket from deleted
  `);
}

/** From the first page on: an earlier one may have counted what is gone now. */
async function noteRecounts(tx: Tx, quarters: readonly Quarter[]): Promise<void> {
  if (quarters.length === 0) {
    return;
  }
  const rows = quarters.map(({ account_id: accountId, meter_id: meterId, mode, bucket }) => [
    accountId,
    meterId,
    mode,
    new Date(bucket).toISOString(),
  ]);
  await tx.query(sql.type(nothing)`
    insert into meter_recounts (account_id, meter_id, mode, bucket)
    select distinct * from ${sql.unnest(rows, ["text", "text", "text", "timestamptz"])}
    on conflict (account_id, meter_id, mode, bucket) do update set
      read_account = null, read_at = null, read_position = null, read_ordinal = null
  `);
}

/** A group without events is none of an answer's. */
async function deleteEmpty(tx: Tx, sums: readonly MeterSum[]): Promise<void> {
  const keys = sql.unnest(sums.map(toKey), sumKeyTypes);
  await tx.query(sql.type(nothing)`
    with deleted as (
      delete from meter_rollups
      where (account_id, meter_id, mode, group_key, bucket) in (select * from ${keys})
        and events = 0 and skipped = 0
      returning account_id, meter_id, mode, group_key, bucket
    )
    delete from meter_uniques using deleted
    where meter_uniques.account_id = deleted.account_id
      and meter_uniques.meter_id = deleted.meter_id and meter_uniques.mode = deleted.mode
      and meter_uniques.group_key = deleted.group_key and meter_uniques.bucket = deleted.bucket
  `);
}
