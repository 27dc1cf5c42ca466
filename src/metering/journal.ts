import { sql } from "slonik";
import { z } from "zod";
import { holdActiveLeases } from "../credits/leases.ts";
import { type Column, unnestColumns } from "../db/columns.ts";
import type { Database } from "../db/database.ts";
import type { Queries, Tx } from "../db/pool.ts";
import { createAppendQueue, lastOf, type QueueLimits } from "./append-queue.ts";
import { encodeRow } from "./codec.ts";
import { type Entry, type Place, shardCount, shardOf } from "./entry.ts";

/** What may wait for the journal while the database is slow or away. */
const queueLimits: QueueLimits = {
  entriesMax: 20_000,
  bytesMax: 64 * 1024 * 1024,
  waitMs: 5_000,
  commitEntriesMax: 4_000,
  commitBytesMax: 16 * 1024 * 1024,
};

/** Entries in one row. */
const rowEntriesMax = 1_000;

/** Where entries stand that are durable. */
export interface Receipt {
  /** The last position of them. */
  position: bigint;
  /** Of each, in the order given. */
  places: readonly Place[];
  /** A position up to which everything was applied when they were written. */
  applied: bigint;
}

/** The durable record of every acknowledged event. */
export interface Journal {
  /**
   * Append entries. Resolves when they are durable; rejects when they are not there, or when the database did not
   * say (the caller retries: the identity of an event makes it count once). UNAVAILABLE, with reason JOURNAL_BUSY,
   * when too many wait, or these waited 5 s for their commit to begin.
   */
  append(entries: readonly Entry[]): Promise<Receipt>;
  /** Append entries in the caller's transaction. Call appended() once it has committed. */
  appendIn(tx: Tx, entries: readonly Entry[]): Promise<Receipt>;
  /** Say that a transaction with entries has committed. */
  appended(): void;
  readonly shards: number;
}

/** A journal that commits the entries of concurrent appends together. */
export function createJournal({
  db,
  onAppended,
}: {
  db: Pick<Database, "systemTransaction" | "systemStatement">;
  /** Told after each commit, for the projector to wake. */
  onAppended: () => void;
}): Journal {
  const appendIn = async (tx: Tx, entries: readonly Entry[]) =>
    insertRows(tx, toRows(await withActiveLeases(tx, entries)));
  const commit = async (entries: readonly Entry[]) => {
    const receipt = entries.some(namesLease)
      ? await db.systemTransaction((tx) => appendIn(tx, entries))
      : await db.systemStatement((one) => insertRows(one, toRows(entries)));
    onAppended();
    return receipt;
  };
  return {
    append: createAppendQueue({ commit }, queueLimits).append,
    appendIn,
    appended: onAppended,
    shards: shardCount,
  };
}

/** One row of the journal to be, and which of the given entries are in it. */
interface NewRow {
  shard: number;
  body: Buffer;
  indexes: readonly number[];
}

/** The rows of entries: those of an account are in its shard, in the order given. */
function toRows(entries: readonly Entry[]): NewRow[] {
  const shards = new Map<string, number>();
  const byShard: number[][] = Array.from({ length: shardCount }, () => []);
  for (const [index, { account }] of entries.entries()) {
    const shard = shards.get(account) ?? shardOf(account, shardCount);
    shards.set(account, shard);
    byShard[shard]?.push(index);
  }
  return byShard.flatMap((indexes, shard) => {
    const rows: NewRow[] = [];
    for (let begin = 0; begin < indexes.length; begin += rowEntriesMax) {
      const own = indexes.slice(begin, begin + rowEntriesMax);
      const body = encodeRow(own.flatMap((index) => entries[index] ?? []));
      rows.push({ shard, body, indexes: own });
    }
    return rows;
  });
}

/** A process that stops between its statements holds the head's lock no longer: nobody else could append. */
export const headHold = sql.fragment`
  set_config('idle_in_transaction_session_timeout', '2s', true) as hold
`;

const rowColumns: Column<NewRow>[] = [
  { type: "int4", of: ({ shard }) => shard },
  { type: "bytea", of: ({ body }) => body },
  { type: "int4", of: ({ indexes }) => indexes.length },
];

const appendedRow = z.object({ position: z.bigint(), applied: z.bigint() });

/** Insert rows. The head's lock puts all of them in one order, without gaps. */
async function insertRows(db: Queries, rows: readonly NewRow[]): Promise<Receipt> {
  if (rows.length === 0) {
    return { position: 0n, places: [], applied: 0n };
  }
  const count = rows.length;
  const appended = await db.any(sql.type(appendedRow)`
    with head as (
      update journal_head set position = position + ${count} returning position
    )
    insert into usage_journal (position, shard, codec, body, entries)
    select head.position - ${count} + row.ordinal, row.shard, 1, row.body, row.entries
    from head, ${unnestColumns(rows, rowColumns)}
      with ordinality as row (shard, body, entries, ordinal)
    returning position, (select min(position) from projector_cursors) as applied, ${headHold}
  `);
  const first = lastOf(appended.map(({ position }) => ({ position, ordinal: 0 }))) - BigInt(count);
  const places: Place[] = [];
  for (const [row, { indexes }] of rows.entries()) {
    const position = first + BigInt(row + 1);
    for (const [ordinal, index] of indexes.entries()) {
      places[index] = { position, ordinal };
    }
  }
  return { position: lastOf(places), places, applied: appended[0]?.applied ?? 0n };
}

function namesLease(entry: Entry): boolean {
  return "lease" in entry && entry.lease !== null;
}

/** An entry may only name a lease that is active until this commits; one that names another is paid otherwise. */
async function withActiveLeases(tx: Tx, entries: readonly Entry[]): Promise<readonly Entry[]> {
  const named = new Map(
    entries.flatMap((entry) =>
      "lease" in entry && entry.lease !== null
        ? [[entry.lease, { accountId: entry.account, id: entry.lease }] as const]
        : [],
    ),
  );
  if (named.size === 0) {
    return entries;
  }
  const active = await holdActiveLeases(tx, [...named.values()]);
  return entries.map((entry) =>
    "lease" in entry && entry.lease !== null && !active.has(entry.lease)
      ? { ...entry, lease: null }
      : entry,
  );
}

/** How far the journal is durable and applied. */
export interface Watermark {
  /** Every position up to this one is applied. */
  applied: bigint;
  durable: bigint;
  /** When the oldest row that is not applied was appended. Null when all are. */
  oldestWaiting: Date | null;
}

const watermarkRow = z.object({
  applied: z.bigint(),
  durable: z.bigint(),
  oldest_waiting: z.number().nullable(),
});

/** How far the journal is durable and applied. */
export async function getWatermark(tx: Tx): Promise<Watermark> {
  const { applied, durable, oldest_waiting } = await tx.one(sql.type(watermarkRow)`
    with mark as (
      select head.position as durable, min(coalesce(waiting.position - 1, head.position)) as applied
      from journal_head as head
      cross join projector_cursors as cursor
      left join lateral (
        select position from usage_journal
        where shard = cursor.shard and position > cursor.position
        order by position limit 1
      ) as waiting on true
      group by head.position
    )
    select applied, durable, (
      select appended_at from usage_journal where position = applied + 1 and applied < durable
    ) as oldest_waiting
    from mark
  `);
  return {
    applied,
    durable,
    oldestWaiting: oldest_waiting === null ? null : new Date(oldest_waiting),
  };
}
