import { sql } from "slonik";
import { z } from "zod";
import { closeDrainedLeases, spendLeases } from "../credits/leases.ts";
import { nothing, type Tx } from "../db/pool.ts";
import { type AppliedEvent, journalEvent, shard } from "./event.ts";
import { chargeEvents } from "./rating.ts";
import { addRollups } from "./rollup.ts";
import { insertEvents, insertQuarantine, markRepeats, type Placed } from "./store.ts";

/** Journal rows applied in one transaction. */
const rowsMax = 50;

const cursorRow = z.object({ position: z.bigint() });
const batchRow = z.object({ position: z.bigint(), events: z.array(z.unknown()) });

/**
 * Apply the next journal rows: events, roll-ups, charges and the cursor in one transaction, so that each event counts
 * once whatever crashes. True: there may be more.
 *
 * The lock on the cursor's row makes it the only one for the shard; another one that comes finds it taken and leaves.
 */
export async function projectNext(tx: Tx, now: Date): Promise<boolean> {
  const cursor = await tx.maybeOne(sql.type(cursorRow)`
    select position from projector_cursors where shard = ${shard} for update skip locked
  `);
  if (cursor === null) {
    return false;
  }
  const rows = await tx.any(sql.type(batchRow)`
    select position, events from usage_journal
    where shard = ${shard} and position > ${cursor.position}
    order by position limit ${rowsMax}
  `);
  const position = rows.at(-1)?.position ?? cursor.position;
  if (rows.length > 0) {
    await applyRows(tx, rows, now);
    await tx.query(sql.type(nothing)`
      update projector_cursors set position = ${position}, updated_at = ${now.toISOString()}
      where shard = ${shard}
    `);
  }
  const closed = await closeDrainedLeases(tx, { shard, position }, now);
  return rows.length === rowsMax || closed === 100;
}

async function applyRows(
  tx: Tx,
  rows: readonly z.infer<typeof batchRow>[],
  now: Date,
): Promise<void> {
  const { placed, malformed } = readEvents(rows);
  await insertQuarantine(tx, malformed);
  const inserted = await insertEvents(tx, firstOfEach(placed));
  const fresh = placed.filter((one) => inserted.get(identity(one.event)) === one.place);
  const repeats = placed.filter((one) => inserted.get(identity(one.event)) !== one.place);
  await markRepeats(tx, repeats);
  const events = fresh.map((one) => one.event);
  await addRollups(tx, events);
  await spendLeases(tx, leaseSums(events));
  const range = `${shard}:${rows[0]?.position}-${rows.at(-1)?.position}`;
  await chargeEvents(tx, { events, range }, now);
}

/** What parses is placed; what does not goes to quarantine as it came, and never stops the rest. */
function readEvents(rows: readonly z.infer<typeof batchRow>[]) {
  const placed: Placed[] = [];
  const malformed: Parameters<typeof insertQuarantine>[1] = [];
  for (const { position, events } of rows) {
    events.forEach((raw, ordinal) => {
      const result = journalEvent.safeParse(raw);
      if (result.success) {
        const place = `${position}:${ordinal}`;
        placed.push({ event: result.data, position, ordinal, place, raw });
      } else {
        malformed.push({ position, ordinal, accountId: "", reason: "MALFORMED", event: raw });
      }
    });
  }
  return { placed, malformed };
}

function firstOfEach(placed: Placed[]): Placed[] {
  const first = new Map<string, Placed>();
  for (const one of placed) {
    const key = identity(one.event);
    if (!first.has(key)) {
      first.set(key, one);
    }
  }
  return [...first.values()];
}

/** Unambiguous: source `a-b` with id `c` is not source `a` with id `b-c`. */
export function identity({ account, source, id }: AppliedEvent): string {
  return JSON.stringify([account, source, id]);
}

function leaseSums(events: AppliedEvent[]): Map<string, bigint> {
  const sums = new Map<string, bigint>();
  for (const { lease, charged } of events) {
    if (lease !== null && charged > 0n) {
      sums.set(lease, (sums.get(lease) ?? 0n) + charged);
    }
  }
  return sums;
}
