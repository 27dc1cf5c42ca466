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

/** List an account's applied events after a place, in the order of the journal. */
export function listEventsAfter(
  db: Queries,
  { accountId, after, limit }: { accountId: string; after: Place; limit: number },
): Promise<readonly EventRow[]> {
  return db.any(sql.type(eventRow)`
    select ${eventColumns} from usage_events as event
    where account_id = ${accountId} and (position, ordinal) > (${after.position}, ${after.ordinal})
    order by position, ordinal limit ${limit}
  `);
}
