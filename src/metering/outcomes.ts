import { sql } from "slonik";
import { z } from "zod";
import type { Database } from "../db/database.ts";
import type { Queries } from "../db/pool.ts";
import { lastOf } from "./append-queue.ts";
import type { Progress } from "./applied.ts";
import { identityKey, monthOf, type Place, shardOf } from "./entry.ts";
import { getWatermark } from "./journal.ts";

/** An event that is in the journal. */
export interface Recorded {
  account: string;
  source: string;
  id: string;
  place: Place;
}

/** What became of an event in the journal. Accepted: it is not known to be applied. */
export type Outcome = "accepted" | "applied" | "duplicate" | "conflict" | "quarantined";

/** What became of some events, and how far the journal was applied then. */
export interface Fates {
  outcomes: Outcome[];
  watermark: bigint;
}

/** What waiting needs. */
export interface OutcomeDeps {
  db: Database;
  progress: Progress;
  shards: number;
  now: () => Date;
}

/**
 * Wait until events are applied, and say what became of each, in their order. Those that are not applied when the
 * signal ends the wait are accepted, as before it.
 */
export async function waitForOutcomes(
  { db, progress, shards, now }: OutcomeDeps,
  events: readonly Recorded[],
  signal: AbortSignal,
): Promise<Fates> {
  const sharded = events.map((event) => ({ ...event, shard: shardOf(event.account, shards) }));
  const byShard = Map.groupBy(sharded, ({ shard }) => shard);
  const waits = [...byShard].map(async ([shard, own]) => {
    const last = lastOf(own.map(({ place }) => place));
    return (await progress.reached(shard, last, signal)) ? own : [];
  });
  const passed = (await Promise.all(waits)).flat();
  const months = monthsUpTo(now());
  const { found, applied } = await db.systemTransaction(async (tx) => ({
    found: passed.length === 0 ? [] : await listFates(tx, passed, months),
    applied: (await getWatermark(tx)).applied,
  }));
  const fates = new Map(found.map((row) => [`${row.position}.${row.ordinal}`, row.outcome]));
  const outcomes = events.map(
    ({ place }) => fates.get(`${place.position}.${place.ordinal}`) ?? "accepted",
  );
  return { outcomes, watermark: applied };
}

/** The month and the two before it, and the next: the database's clock may be ahead. */
function monthsUpTo(now: Date): string[] {
  return [-2, -1, 0, 1].map((months) => {
    const day = Date.UTC(now.getUTCFullYear(), now.getUTCMonth() + months);
    return monthOf(BigInt(day) * 1_000n);
  });
}

const fateRow = z.object({
  position: z.bigint(),
  ordinal: z.number(),
  outcome: z.enum(["applied", "duplicate", "conflict", "quarantined"]),
});

/** List what became of events that the projector has passed. Not of those that it left no trace of. */
function listFates(
  db: Queries,
  events: readonly (Recorded & { shard: number })[],
  months: readonly string[],
): Promise<readonly z.infer<typeof fateRow>[]> {
  const rows = events.map(({ account, source, id, place, shard }) => [
    account,
    identityKey(source, id),
    shard,
    place.position.toString(),
    place.ordinal,
  ]);
  return db.any(sql.type(fateRow)`
    select event.position, event.ordinal,
      case
        when kept.reason = 'CONFLICT' then 'conflict'
        when kept.reason is not null then 'quarantined'
        when stored.position = event.position and stored.ordinal = event.ordinal then 'applied'
        else 'duplicate'
      end as outcome
    from ${sql.unnest(rows, ["text", "text", "int4", "int8", "int4"])}
      as event (account_id, key, shard, position, ordinal)
    left join lateral (
      select reason from usage_quarantine
      where shard = event.shard and position = event.position and ordinal = event.ordinal
    ) as kept on true
    left join lateral (
      select position, ordinal from usage_events
      where account_id = event.account_id and key = event.key
        and received_month = any(${sql.array([...months], "date")})
      order by received_month desc limit 1
    ) as stored on true
    where kept.reason is not null or stored.position is not null
  `);
}

const cursorRow = z.object({ shard: z.number(), position: z.bigint() });

/** List how far each shard is applied. */
export function listCursors(db: Queries): Promise<readonly z.infer<typeof cursorRow>[]> {
  return db.any(sql.type(cursorRow)`select shard, position from projector_cursors`);
}
