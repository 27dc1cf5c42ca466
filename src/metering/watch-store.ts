import { sql } from "slonik";
import { z } from "zod";
import type { Queries, Tx } from "../db/pool.ts";
import type { Place } from "./entry.ts";
import { getWatermark } from "./journal.ts";
import { type EventRow, eventColumns, eventRow } from "./store.ts";

/** How far the journal is applied. */
export interface Reached {
  /** Every position up to this one is applied. */
  watermark: bigint;
  /** The same by shard: of a shard's accounts nothing up to its position is missing. */
  shards: ReadonlyMap<number, bigint>;
}

const cursorRow = z.object({ shard: z.number(), position: z.bigint() });

/** Read how far the journal is applied. */
export async function readReached(tx: Tx): Promise<Reached> {
  const rows = await tx.any(sql.type(cursorRow)`select shard, position from projector_cursors`);
  const { applied } = await getWatermark(tx);
  return {
    watermark: applied,
    shards: new Map(rows.map(({ shard, position }) => [shard, position])),
  };
}

const removedRow = z.object({ position: z.bigint() });

/** The last position of the events that are removed. Zero when none are. */
export async function findRemovedPosition(db: Queries): Promise<bigint> {
  const row = await db.one(sql.type(removedRow)`
    select coalesce(max(last_position), 0)::int8 as position from usage_partition_totals
  `);
  return row.position;
}

const pagedRow = eventRow.extend({ found: z.number() });

/**
 * List an account's applied events after a place, in the order of the journal: up to so many, and so many bytes of data,
 * but at least one. Says whether these are all.
 */
export async function listEventsAfter(
  db: Queries,
  of: { accountId: string; after: Place; limit: number; bytesMax: number },
): Promise<{ rows: readonly EventRow[]; isAll: boolean }> {
  const rows = await db.any(sql.type(pagedRow)`
    with page as (
      select ${eventColumns} from usage_events as event
      where account_id = ${of.accountId}
        and (position, ordinal) > (${of.after.position}, ${of.after.ordinal})
      order by position, ordinal limit ${of.limit}
    ), measured as (
      select page.*, (count(*) over ())::int4 as found,
        sum(octet_length(data)) over (order by position, ordinal) - octet_length(data) as bytes_before
      from page
    )
    select * from measured where bytes_before < ${of.bytesMax}
    order by position, ordinal
  `);
  const found = rows[0]?.found ?? 0;
  return { rows, isAll: rows.length === found && found < of.limit };
}
