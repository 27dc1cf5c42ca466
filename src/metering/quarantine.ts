import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Queries, type Tx } from "../db/pool.ts";
import type { Mode } from "../ledger/store.ts";
import { decodeRow } from "./codec.ts";
import type { Place } from "./entry.ts";

/** An entry that is not applied, and why. */
export interface Quarantined {
  shard: number;
  place: Place;
  /** Empty when it cannot be read. */
  accountId: string;
  mode: Mode;
  reason: "MALFORMED" | "CONFLICT" | "POISONED" | "OVER_LIMIT";
  detail: string;
  /** A journal row of the one entry, or the bytes as they came of what cannot be read. */
  raw: Buffer;
  /** What it would have been charged. */
  chargedNanos: bigint;
}

/** Keep entries that are not applied, as they came. */
export async function insertQuarantine(tx: Tx, events: readonly Quarantined[]): Promise<void> {
  if (events.length === 0) {
    return;
  }
  const rows = events.map((event) => [
    event.shard,
    event.place.position.toString(),
    event.place.ordinal,
    event.accountId,
    event.mode,
    event.reason,
    event.detail,
    event.raw,
    event.chargedNanos.toString(),
  ]);
  await tx.query(sql.type(nothing)`
    insert into usage_quarantine (
      shard, position, ordinal, account_id, mode, reason, detail, raw, charged_nanos
    )
    select * from ${sql.unnest(rows, [
      "int4",
      "int8",
      "int4",
      "text",
      "text",
      "text",
      "text",
      "bytea",
      "int8",
    ])}
  `);
}

const rawRow = z.object({ raw: z.instanceof(Buffer) });

/** Look-alikes that are read to find an event. */
const lookAlikesMax = 100;

/** Whether one of the account's events waits in quarantine, so that it is not applied. */
export async function isQuarantined(
  db: Queries,
  { accountId, source, id }: { accountId: string; source: string; id: string },
): Promise<boolean> {
  // Its id stands in the bytes, which only the codec can read.
  const rows = await db.any(sql.type(rawRow)`
    select raw from usage_quarantine
    where account_id = ${accountId} and state = 'open' and reason <> 'CONFLICT'
      and position(convert_to(${id}, 'UTF8') in raw) > 0
    order by position desc limit ${lookAlikesMax}
  `);
  return rows
    .flatMap(({ raw }) => decodeRow({ codec: 1, body: raw }).entries)
    .some((entry) => entry.kind !== "malformed" && entry.source === source && entry.id === id);
}

const countRow = z.object({ open: z.number() });

/** Count an account's entries in quarantine that nobody has dealt with. */
export async function countQuarantined(db: Queries, accountId: string): Promise<number> {
  const { open } = await db.one(sql.type(countRow)`
    select count(*)::int4 as open from usage_quarantine
    where account_id = ${accountId} and state = 'open'
  `);
  return open;
}
