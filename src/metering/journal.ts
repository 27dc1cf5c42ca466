import { sql } from "slonik";
import { z } from "zod";
import { holdActiveLeases } from "../credits/leases.ts";
import type { Database } from "../db/database.ts";
import type { Tx } from "../db/pool.ts";
import { unavailable } from "../rpc/errors.ts";
import { encodeRow } from "./codec.ts";
import { type Entry, type Place, shardCount, shardOf } from "./entry.ts";

/** Entries that may wait for a commit. More are refused, never lost. */
const waitingMax = 20_000;

/** Entries that are committed together. */
const flushEntriesMax = 1_000;

/** Where entries stand in the journal. */
export interface Receipt {
  /** Of the last of them. */
  position: bigint;
  /** Of each, in the order in which they were given. */
  places: readonly Place[];
}

/** The durable record of every acknowledged event. */
export interface Journal {
  /**
   * Append entries. Resolves when they are durable; rejects when they are not there, or when the database did not
   * say (the caller retries: the identity of an event makes it count once). UNAVAILABLE, with reason JOURNAL_BUSY,
   * when too many wait.
   */
  append(entries: readonly Entry[]): Promise<Receipt>;
  /** Append entries in the caller's transaction. Call appended() once it has committed. */
  appendIn(tx: Tx, entries: readonly Entry[]): Promise<Receipt>;
  /** Say that a transaction with entries has committed. */
  appended(): void;
  readonly shards: number;
}

interface Waiting {
  entries: readonly Entry[];
  resolve(receipt: Receipt): void;
  reject(error: unknown): void;
}

/** A journal that commits the entries of concurrent appends together. */
export function createJournal({
  db,
  onAppended,
}: {
  db: Database;
  /** Told after each commit, for the projector to wake. */
  onAppended: () => void;
}): Journal {
  const queue: Waiting[] = [];
  let waiting = 0;
  let flushing = false;

  async function flush() {
    flushing = true;
    while (queue.length > 0) {
      const batch = takeBatch(queue);
      const entries = batch.flatMap((one) => one.entries);
      waiting -= entries.length;
      try {
        const { places } = await db.systemTransaction((tx) => appendRows(tx, entries));
        let begin = 0;
        for (const one of batch) {
          one.resolve(toReceipt(places.slice(begin, begin + one.entries.length)));
          begin += one.entries.length;
        }
        onAppended();
      } catch (error) {
        for (const one of batch) {
          one.reject(error);
        }
      }
    }
    flushing = false;
  }

  return {
    append(entries) {
      if (waiting + entries.length > waitingMax) {
        const message = "Cannot take more events: too many wait to be written";
        return Promise.reject(unavailable("JOURNAL_BUSY", message));
      }
      waiting += entries.length;
      return new Promise((resolve, reject) => {
        queue.push({ entries, resolve, reject });
        if (!flushing) {
          void flush();
        }
      });
    },
    appendIn: appendRows,
    appended: onAppended,
    shards: shardCount,
  };
}

function takeBatch(queue: Waiting[]): Waiting[] {
  let entries = 0;
  let count = 0;
  for (const one of queue) {
    if (count > 0 && entries + one.entries.length > flushEntriesMax) {
      break;
    }
    entries += one.entries.length;
    count += 1;
  }
  return queue.splice(0, count);
}

function toReceipt(places: readonly Place[]): Receipt {
  const last = places.reduce((max, { position }) => (position > max ? position : max), 0n);
  return { position: last, places };
}

const positionRow = z.object({ position: z.bigint(), shard: z.number() });

/** Append one row for each shard of the entries. The head's lock puts all of them in one order, without gaps. */
async function appendRows(tx: Tx, given: readonly Entry[]): Promise<Receipt> {
  if (given.length === 0) {
    return toReceipt([]);
  }
  const entries = await withActiveLeases(tx, given);
  const shards = Map.groupBy(entries.keys(), (index) =>
    shardOf(entries[index]?.account ?? "", shardCount),
  );
  const rows = [...shards].map(([shard, indexes]) => {
    const own = indexes.flatMap((index) => entries[index] ?? []);
    return [shard, encodeRow(own), own.length];
  });
  const appended = await tx.any(sql.type(positionRow)`
    with head as (
      update journal_head set position = position + ${rows.length} returning position
    )
    insert into usage_journal (position, shard, codec, body, entries)
    select head.position - ${rows.length} + row.ordinal, row.shard, 1, row.body, row.entries
    from head, ${sql.unnest(rows, ["int4", "bytea", "int4"])}
      with ordinality as row (shard, body, entries, ordinal)
    returning position, shard
  `);
  const positions = new Map(appended.map(({ shard, position }) => [shard, position]));
  const places: Place[] = [];
  for (const [shard, indexes] of shards) {
    for (const [ordinal, index] of indexes.entries()) {
      places[index] = { position: positions.get(shard) ?? 0n, ordinal };
    }
  }
  return toReceipt(places);
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
