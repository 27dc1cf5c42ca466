import { sql } from "slonik";
import { z } from "zod";
import { closeDrainedLeases, findFence, spendLeases } from "../credits/leases.ts";
import { nothing, type Tx } from "../db/pool.ts";
import { type AppliedEvent, journalEvent, shard } from "./event.ts";
import { type Charge, chargeEvents } from "./rating.ts";
import { addRollups } from "./rollup.ts";
import { insertEvents, insertQuarantine, markRepeats, type Placed } from "./store.ts";

/** Journal rows, and events in them, applied in one transaction: it must end well before a statement's deadline. */
const rowsMax = 50;
const eventsMax = 5_000;

const cursorRow = z.object({ position: z.bigint() });
const batchRow = z.object({ position: z.bigint(), events: z.unknown() });

/**
 * Apply the next journal rows: events, roll-ups, charges and the cursor in one transaction, so that each event counts
 * once whatever crashes. True: there may be more.
 *
 * The lock on the cursor's row makes it the only one for the shard; another one that comes finds it taken and leaves.
 * Leases that wait for nothing more come first, in a transaction of their own: both move balances, and a transaction
 * moves them once, in one order. Rows after a draining lease's fence wait until what is left of it is back: they may
 * have to be paid from it.
 */
export async function projectNext(tx: Tx, now: Date): Promise<boolean> {
  const cursor = await tx.maybeOne(sql.type(cursorRow)`
    select position from projector_cursors where shard = ${shard} for update skip locked
  `);
  if (cursor === null) {
    return false;
  }
  if ((await closeDrainedLeases(tx, { shard, position: cursor.position }, now)) > 0) {
    return true;
  }
  const read = await tx.any(sql.type(batchRow)`
    select position, events from usage_journal
    where shard = ${shard} and position > ${cursor.position}
    order by position limit ${rowsMax}
  `);
  // Read after the rows: a row that an ended lease did not pay for comes after that lease's end.
  const fence = await findFence(tx, shard);
  const rows = takeRows(read.filter((row) => fence === null || row.position <= fence));
  const position = rows.at(-1)?.position;
  if (position === undefined) {
    return read.length > 0;
  }
  await applyRows(tx, rows, now);
  await tx.query(sql.type(nothing)`
    update projector_cursors set position = ${position}, updated_at = ${now.toISOString()}
    where shard = ${shard}
  `);
  return true;
}

/** The rows up to the most events, at least one. */
function takeRows(rows: readonly z.infer<typeof batchRow>[]) {
  let events = 0;
  return rows.filter((row, index) => {
    events += Array.isArray(row.events) ? row.events.length : 1;
    return index === 0 || events <= eventsMax;
  });
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
  const range = `${shard}:${rows[0]?.position}-${rows.at(-1)?.position}`;
  await chargeEvents(tx, { charges: await findPayers(tx, events), range }, now);
}

/** What the events cost, and whether their leases pay for it. */
async function findPayers(tx: Tx, events: AppliedEvent[]): Promise<Charge[]> {
  const charged = events.filter((event) => event.charged > 0n);
  const leased = charged.filter(({ lease }) => lease !== null);
  const covered = await spendLeases(
    tx,
    leased.map(({ account, mode, lease, charged: nanos }) => ({
      accountId: account,
      mode,
      leaseId: lease,
      nanos,
    })),
  );
  const paid = new Set(leased.filter((_, index) => covered[index]));
  return charged.map((event) => ({ event, isLeased: paid.has(event) }));
}

/** What parses is placed; what does not goes to quarantine as it came, and never stops the rest. */
function readEvents(rows: readonly z.infer<typeof batchRow>[]) {
  const placed: Placed[] = [];
  const malformed: Parameters<typeof insertQuarantine>[1] = [];
  for (const { position, events } of rows) {
    // A row that is no list is one event that makes no sense.
    const list: unknown[] = Array.isArray(events) ? events : [events];
    list.forEach((raw, ordinal) => {
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
