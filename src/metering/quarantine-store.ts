import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Queries, type Tx } from "../db/pool.ts";
import type { Place } from "./entry.ts";

const quarantinedRow = z.object({
  position: z.bigint(),
  ordinal: z.number(),
  account_id: z.string(),
  reason: z.enum(["MALFORMED", "CONFLICT", "POISONED", "OVER_LIMIT"]),
  detail: z.string(),
  /** A row of the journal with the one entry; of what cannot be read its bytes. Null in old rows. */
  raw: z.instanceof(Buffer).nullable(),
  /** The event's JSON text. Only in old rows. */
  event: z.string().nullable(),
  charged_nanos: z.bigint(),
  state: z.enum(["open", "replayed", "dismissed"]),
  replay_position: z.bigint().nullable(),
  created_at: z.number(),
});

/** An entry that was not applied. */
export type QuarantinedRow = z.infer<typeof quarantinedRow>;

/** Bytes that are shown of what cannot be read, in a list and of a single one. */
const listedBytesMax = 4_096;
const shownBytesMax = 1_048_576;

function columns(bytesMax: number) {
  return sql.fragment`
    position, ordinal, account_id, reason, detail,
    case when reason = 'MALFORMED' then substring(raw for ${bytesMax}) else raw end as raw,
    event::text as event, charged_nanos, state, replay_position, created_at
  `;
}

/** A place is in one shard. Naming all of them lets it be looked up by the primary key. */
const inShards = sql.fragment`shard in (select shard from projector_cursors)`;

/** List entries in quarantine, newest first, before a place (null: from the newest). Empty filters mean any. */
export function listQuarantined(
  db: Queries,
  list: { reason: string; state: string; accountId: string; before: Place | null; limit: number },
): Promise<readonly QuarantinedRow[]> {
  const { reason, state, accountId, before, limit } = list;
  return db.any(sql.type(quarantinedRow)`
    select ${columns(listedBytesMax)} from usage_quarantine
    where state = ${state} and (${reason} = '' or reason = ${reason})
      and (${accountId} = '' or account_id = ${accountId})
      and (
        ${before === null} or (position, ordinal) < (
          ${before?.position ?? 0n}::int8, ${before?.ordinal ?? 0}::int4
        )
      )
    order by position desc, ordinal desc limit ${limit}
  `);
}

/** Find an entry in quarantine by its place. */
export function findQuarantined(
  db: Queries,
  { position, ordinal }: Place,
): Promise<QuarantinedRow | null> {
  return db.maybeOne(sql.type(quarantinedRow)`
    select ${columns(shownBytesMax)} from usage_quarantine
    where ${inShards} and position = ${position} and ordinal = ${ordinal}
  `);
}

/** Find entries in quarantine, in the order of their places, and keep others from dealing with them. */
export function lockQuarantined(
  tx: Tx,
  places: readonly Place[],
): Promise<readonly QuarantinedRow[]> {
  const rows = places.map(({ position, ordinal }) => [position.toString(), ordinal]);
  return tx.any(sql.type(quarantinedRow)`
    select ${columns(shownBytesMax)} from usage_quarantine
    where ${inShards} and (position, ordinal) in (select * from ${sql.unnest(rows, ["int8", "int4"])})
    order by position, ordinal for update
  `);
}

/** How entries in quarantine were dealt with. */
export interface Closing {
  place: Place;
  /** Where the entry was replayed to. Null: it was dismissed. */
  replayPosition: bigint | null;
}

/** Close entries in quarantine. */
export async function closeQuarantined(
  tx: Tx,
  closings: readonly Closing[],
  { reason, now }: { reason: string; now: Date },
): Promise<void> {
  const rows = closings.map(({ place, replayPosition }) => [
    place.position.toString(),
    place.ordinal,
    replayPosition?.toString() ?? null,
  ]);
  await tx.query(sql.type(nothing)`
    update usage_quarantine as kept
    set state = case when closing.replay_position is null then 'dismissed' else 'replayed' end,
      replay_position = closing.replay_position, closed_reason = ${reason},
      closed_at = ${now.toISOString()}
    from ${sql.unnest(rows, ["int8", "int4", "int8"])}
      as closing (position, ordinal, replay_position)
    where ${inShards} and kept.position = closing.position and kept.ordinal = closing.ordinal
  `);
}
