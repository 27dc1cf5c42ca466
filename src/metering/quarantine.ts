import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Queries, type Tx } from "../db/pool.ts";
import type { Mode } from "../ledger/store.ts";
import { decodeRow } from "./codec.ts";
import { identityKey, type Place } from "./entry.ts";

/** An entry that is not applied, and why. */
export interface Quarantined {
  shard: number;
  place: Place;
  /** Empty when it cannot be read. */
  accountId: string;
  /** The identity of the event, for who looks for it. Absent of what is none. */
  key?: string;
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
    event.key ?? null,
  ]);
  await tx.query(sql.type(nothing)`
    insert into usage_quarantine (
      shard, position, ordinal, account_id, mode, reason, detail, raw, charged_nanos,
      event_key
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
      "text",
    ])}
  `);
}

const rawRow = z.object({ raw: z.instanceof(Buffer) });

const foundRow = z.object({ is_found: z.boolean() });

/** Old rows that are read to find an event. */
const oldRowsMax = 100;

/** Whether one of the account's events waits in quarantine, so that it is not applied. */
export async function isQuarantined(
  db: Queries,
  { accountId, source, id }: { accountId: string; source: string; id: string },
): Promise<boolean> {
  const { is_found: isFound } = await db.one(sql.type(foundRow)`
    select exists (
      select from usage_quarantine
      where account_id = ${accountId} and state = 'open' and reason <> 'CONFLICT'
        and event_key = ${identityKey(source, id)}
    ) as is_found
  `);
  return isFound || (await isQuarantinedBefore(db, { accountId, source, id }));
}

/** The same of what earlier versions kept without a key: its id stands in the bytes, which only the codec can read. */
async function isQuarantinedBefore(
  db: Queries,
  { accountId, source, id }: { accountId: string; source: string; id: string },
): Promise<boolean> {
  const rows = await db.any(sql.type(rawRow)`
    select raw from usage_quarantine
    where account_id = ${accountId} and state = 'open' and reason <> 'CONFLICT'
      and event_key is null and position(convert_to(${id}, 'UTF8') in raw) > 0
    order by position desc limit ${oldRowsMax}
  `);
  return rows
    .flatMap(({ raw }) => decodeRow({ codec: 1, body: raw }).entries)
    .some(
      (entry) =>
        (entry.kind === "usage" || entry.kind === "replay") &&
        entry.source === source &&
        entry.id === id,
    );
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
