import { sql } from "slonik";
import { z } from "zod";
import { holdActiveLeases } from "../credits/leases.ts";
import type { Database } from "../db/database.ts";
import type { Tx } from "../db/pool.ts";
import { unavailable } from "../rpc/errors.ts";
import { type JournalEvent, shard } from "./event.ts";

/** Events that may wait for a commit. More are refused, never lost. */
const waitingMax = 20_000;

/** Events in one journal row. */
const rowEventsMax = 1_000;

/** The durable record of every acknowledged event. */
export interface Journal {
  /**
   * Append events. Resolves, with their position, when they are durable; rejects when they are not there, or when
   * the database did not say (the caller retries: the identity of an event makes it count once).
   */
  append(events: JournalEvent[]): Promise<bigint>;
}

interface Waiting {
  events: JournalEvent[];
  resolve(position: bigint): void;
  reject(error: unknown): void;
}

/** A journal that commits the events of concurrent appends together. */
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
      const events = batch.flatMap((entry) => entry.events);
      waiting -= events.length;
      try {
        const position = await db.systemTransaction((tx) => appendRow(tx, events));
        for (const entry of batch) {
          entry.resolve(position);
        }
        onAppended();
      } catch (error) {
        for (const entry of batch) {
          entry.reject(error);
        }
      }
    }
    flushing = false;
  }

  return {
    append(events) {
      if (waiting + events.length > waitingMax) {
        const message = "Cannot take more events: too many wait to be written";
        return Promise.reject(unavailable("JOURNAL_BUSY", message));
      }
      waiting += events.length;
      return new Promise((resolve, reject) => {
        queue.push({ events, resolve, reject });
        if (!flushing) {
          void flush();
        }
      });
    },
  };
}

function takeBatch(queue: Waiting[]): Waiting[] {
  let events = 0;
  let count = 0;
  for (const entry of queue) {
    if (count > 0 && events + entry.events.length > rowEventsMax) {
      break;
    }
    events += entry.events.length;
    count += 1;
  }
  return queue.splice(0, count);
}

const positionRow = z.object({ position: z.bigint() });

/**
 * Append one row. An event may only name a lease that is active until this commits; one that names another is
 * charged to the balance instead.
 */
async function appendRow(tx: Tx, events: JournalEvent[]): Promise<bigint> {
  const named = new Map(
    events.flatMap(({ account, lease }) =>
      lease === null ? [] : [[lease, { accountId: account, id: lease }] as const],
    ),
  );
  const active =
    named.size === 0 ? new Set<string>() : await holdActiveLeases(tx, [...named.values()]);
  const fenced = events.map((event) =>
    event.lease !== null && active.has(event.lease) ? event : { ...event, lease: null },
  );
  const row = await tx.one(sql.type(positionRow)`
    with head as (
      update journal_heads set position = position + 1 where shard = ${shard} returning position
    )
    insert into usage_journal (shard, position, events)
    select ${shard}, position, ${JSON.stringify(fenced)}::jsonb from head
    returning position
  `);
  return row.position;
}

const watermarkRow = z.object({ applied: z.bigint(), durable: z.bigint() });

/** How far the journal is durable and applied. */
export function getWatermark(tx: Tx): Promise<z.infer<typeof watermarkRow>> {
  return tx.one(sql.type(watermarkRow)`
    select projector_cursors.position as applied, journal_heads.position as durable
    from journal_heads join projector_cursors using (shard)
    where shard = ${shard}
  `);
}
