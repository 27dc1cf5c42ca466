import { sql } from "slonik";
import { z } from "zod";
import { activeLeases, holdActiveLeases } from "../credits/lease-end.ts";
import type { LeaseKey } from "../credits/leases.ts";
import { type Column, unnestColumns } from "../db/columns.ts";
import type { Database } from "../db/database.ts";
import type { Queries, Tx } from "../db/pool.ts";
import {
  type Batch,
  type Committed,
  createAppendQueue,
  lastOf,
  type QueueLimits,
} from "./append-queue.ts";
import { encodeRow } from "./codec.ts";
import { type Entry, type Place, shardCount, shardOf, type UsageEntry } from "./entry.ts";

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

/** Whoever waits for an entry that was pushed. Told once, by one of the two, which must not throw. */
export interface AppendSink {
  /** The entry is durable, at this position. */
  onDurable(position: bigint): void;
  /** It is not there, or nobody knows: see Journal.append. LeaseEndedError: its lease was over, it was not written. */
  onRefused(error: unknown): void;
}

/** A strict entry names a lease that is over. It was not written. */
export class LeaseEndedError extends Error {
  override name = "LeaseEndedError";

  constructor() {
    super("Cannot write an event: its lease is over");
  }
}

/** The durable record of every acknowledged event. */
export interface Journal {
  /**
   * Append entries. Resolves when they are durable; rejects when they are not there, or when the database did not
   * say (the caller retries: the identity of an event makes it count once). UNAVAILABLE, with reason JOURNAL_BUSY,
   * when too many wait, or these waited 5 s for their commit to begin.
   */
  append(entries: readonly Entry[]): Promise<Receipt>;
  /**
   * Append an entry, and tell the sink in the turn of its commit. A strict one is not written when its lease is over;
   * others are then paid otherwise. One that may wait is committed some milliseconds later, with others.
   */
  push(entry: UsageEntry, sink: AppendSink, isStrict: boolean, mayWait?: boolean): void;
  /** What was pushed or appended and is not durable yet. */
  readonly waiting: { readonly entries: number; readonly oldestMs: number };
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
  const commit = async (batch: Batch) => {
    const committed = (await commitAtOnce(db, batch.entries)) ?? (await commitChecked(db, batch));
    onAppended();
    return committed;
  };
  const leaseEnded = () => new LeaseEndedError();
  const queue = createAppendQueue({ commit, leaseEnded }, queueLimits);
  return {
    append: queue.append,
    push: queue.push,
    get waiting() {
      return queue.waiting;
    },
    async appendIn(tx, entries) {
      const named = leasesOf(entries);
      const active = named.length === 0 ? new Set<string>() : await holdActiveLeases(tx, named);
      const kept = entries.map((entry) => (isPaid(entry, active) ? entry : withoutLease(entry)));
      const { places, applied } = await insertRows(tx, toRows(kept));
      return { position: lastOf(places), places, applied };
    },
    appended: onAppended,
    shards: shardCount,
  };
}

/**
 * Commit entries by one statement, which holds the leases that they name until its end. Null: one of these is not
 * active, and nothing was written.
 */
async function commitAtOnce(
  db: Pick<Database, "systemStatement">,
  entries: readonly Entry[],
): Promise<Committed | null> {
  const leases = leasesOf(entries);
  const written = await db.systemStatement((one) => insertRows(one, toRows(entries), leases));
  return written.places.length === entries.length ? written : null;
}

/** Commit entries of which some name a lease that is over: strict ones are left out, others are paid otherwise. */
function commitChecked(
  db: Pick<Database, "systemTransaction">,
  { entries, strict }: Batch,
): Promise<Committed> {
  return db.systemTransaction(async (tx) => {
    const active = await holdActiveLeases(tx, leasesOf(entries));
    const kept: Entry[] = [];
    const keptAt = entries.map((entry) => {
      const isKept = isPaid(entry, active);
      const isWritten = isKept || !strict.has(entry);
      return isWritten ? kept.push(isKept ? entry : withoutLease(entry)) - 1 : null;
    });
    const { places, applied } = await insertRows(tx, toRows(kept));
    return { places: keptAt.map((at) => (at === null ? null : (places[at] ?? null))), applied };
  });
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

/**
 * Insert rows. The head's lock puts all of them in one order, without gaps. When a lease is not active, it writes
 * nothing, and there are no places.
 *
 * The leases are counted before the head is looked at, once: the number is kept when the head was locked by another
 * append and is looked at again.
 */
async function insertRows(
  db: Queries,
  rows: readonly NewRow[],
  leases: readonly LeaseKey[] = [],
): Promise<{ places: Place[]; applied: bigint }> {
  if (rows.length === 0) {
    return { places: [], applied: 0n };
  }
  const count = rows.length;
  const isFree = leases.length === 0;
  const held = isFree ? sql.fragment`` : sql.fragment`held as (${activeLeases(leases)}),`;
  const areHeld = isFree
    ? sql.fragment`true`
    : sql.fragment`(select count(*) from held) = ${leases.length}`;
  const name = isFree ? "append_rows" : "append_leased_rows";
  const appended = await db.any(sql.prepared(name, appendedRow)`
    with ${held} head as (
      update journal_head set position = position + ${count} where ${areHeld} returning position
    )
    insert into usage_journal (position, shard, codec, body, entries)
    select head.position - ${count} + row.ordinal, row.shard, 1, row.body, row.entries
    from head, ${unnestColumns(rows, rowColumns)}
      with ordinality as row (shard, body, entries, ordinal)
    returning position, (select min(position) from projector_cursors) as applied, ${headHold}
  `);
  if (appended.length === 0) {
    return { places: [], applied: 0n };
  }
  const first = lastOf(appended.map(({ position }) => ({ position, ordinal: 0 }))) - BigInt(count);
  const places: Place[] = [];
  for (const [row, { indexes }] of rows.entries()) {
    const position = first + BigInt(row + 1);
    for (const [ordinal, index] of indexes.entries()) {
      places[index] = { position, ordinal };
    }
  }
  return { places, applied: appended[0]?.applied ?? 0n };
}

/** The leases that entries name, each once. */
function leasesOf(entries: readonly Entry[]): LeaseKey[] {
  const named = new Map<string, LeaseKey>();
  for (const entry of entries) {
    if ("lease" in entry && entry.lease !== null && !named.has(entry.lease)) {
      named.set(entry.lease, { accountId: entry.account, leaseId: entry.lease });
    }
  }
  return [...named.values()];
}

/** Whether the lease that an entry names, if any, is one of these. */
function isPaid(entry: Entry, active: ReadonlySet<string>): boolean {
  return !("lease" in entry) || entry.lease === null || active.has(entry.lease);
}

function withoutLease(entry: Entry): Entry {
  return "lease" in entry ? { ...entry, lease: null } : entry;
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
