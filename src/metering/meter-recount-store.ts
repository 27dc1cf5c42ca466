import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Queries, type Tx } from "../db/pool.ts";
import { timeText } from "./entry.ts";
import type { ReadPlace } from "./meter-events.ts";
import { type CountedMeter, countedRow, meterColumns } from "./meter-store.ts";

const recountRow = countedRow.extend({
  mode: z.enum(["live", "test"]),
  bucket: z.number(),
  read_account: z.string().nullable(),
  read_micros: z.bigint().nullable(),
  read_position: z.bigint().nullable(),
  read_ordinal: z.number().nullable(),
});

/** A quarter of an hour of a meter of which some sums are to be counted anew. */
export interface Recount {
  meter: CountedMeter;
  mode: "live" | "test";
  bucketMs: number;
  /** The last event that was read. Null before the first. */
  after: ReadPlace | null;
}

/**
 * Claim the next quarter to be counted anew, of a meter behind the given id (empty: any). Its meter is held: nobody
 * takes events from its sums meanwhile.
 */
export async function claimRecount(tx: Tx, afterMeter: string): Promise<Recount | null> {
  const row = await tx.maybeOne(sql.type(recountRow)`
    select ${meterColumns}, start_positions::text[] as start_positions, built_to,
      recount.mode, recount.bucket, recount.read_account,
      (extract(epoch from recount.read_at) * 1000000)::int8 as read_micros,
      recount.read_position, recount.read_ordinal
    from meter_recounts as recount
    join meters on meters.account_id = recount.account_id and meters.id = recount.meter_id
    where meters.state = 'active' and meters.id > ${afterMeter}
    order by meters.id, recount.bucket limit 1
    for no key update of meters skip locked
  `);
  if (row === null) {
    return null;
  }
  const { mode, bucket, read_account, read_micros, read_position, read_ordinal, ...meter } = row;
  const isBegun = read_account !== null && read_micros !== null && read_position !== null;
  const after = isBegun
    ? {
        accountId: read_account,
        timeMicros: read_micros,
        position: read_position,
        ordinal: read_ordinal ?? 0,
      }
    : null;
  return { meter, mode, bucketMs: bucket, after };
}

/** Say how far a quarter is counted anew. */
export async function updateRecount(
  tx: Tx,
  { meter, mode, bucketMs }: Recount,
  { accountId, timeMicros, position, ordinal }: ReadPlace,
): Promise<void> {
  await tx.query(sql.type(nothing)`
    update meter_recounts set read_account = ${accountId}, read_at = ${timeText(timeMicros)},
      read_position = ${position}, read_ordinal = ${ordinal}
    where account_id = ${meter.account_id} and meter_id = ${meter.id} and mode = ${mode}
      and bucket = ${new Date(bucketMs).toISOString()}
  `);
}

/** Say that a quarter is counted anew. */
export async function deleteRecount(tx: Tx, { meter, mode, bucketMs }: Recount): Promise<void> {
  await tx.query(sql.type(nothing)`
    delete from meter_recounts
    where account_id = ${meter.account_id} and meter_id = ${meter.id} and mode = ${mode}
      and bucket = ${new Date(bucketMs).toISOString()}
  `);
}

const pendingRow = z.object({ is_pending: z.boolean() });

/** Whether sums of a meter in a range are being counted anew. */
export async function isRecounting(
  db: Queries,
  of: { accountId: string; meterId: string; mode: "live" | "test"; startMs: number; endMs: number },
): Promise<boolean> {
  const row = await db.one(sql.type(pendingRow)`
    select exists (
      select from meter_recounts
      where account_id = ${of.accountId} and meter_id = ${of.meterId} and mode = ${of.mode}
        and bucket >= ${new Date(of.startMs).toISOString()}
        and bucket < ${new Date(of.endMs).toISOString()}
    ) as is_pending
  `);
  return row.is_pending;
}
