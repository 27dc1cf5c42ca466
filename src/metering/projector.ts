import { sql } from "slonik";
import { z } from "zod";
import { closeDrainedLeases, findFence, spendLeases } from "../credits/leases.ts";
import { nothing, type Tx } from "../db/pool.ts";
import { decodeRow, encodeRow } from "./codec.ts";
import type { UsageEntry } from "./entry.ts";
import { insertQuarantine, type Quarantined } from "./quarantine.ts";
import { type Charge, chargeEvents } from "./rating.ts";
import { addRollups } from "./rollup.ts";
import { identity, insertEvents, markRepeats, type Placed } from "./store.ts";

/** Journal rows, and entries in them, applied in one transaction: it must end well before a statement's deadline. */
const rowsMax = 50;
const entriesMax = 5_000;

const cursorRow = z.object({ position: z.bigint() });
const journalRow = z.object({
  head: z.bigint(),
  position: z.bigint().nullable(),
  codec: z.number().nullable(),
  body: z.instanceof(Buffer).nullable(),
  entries: z.number().nullable(),
  appended_at: z.number().nullable(),
});

interface Row {
  position: bigint;
  codec: number;
  body: Buffer;
  entries: number;
  receivedAt: Date;
}

/**
 * Apply the next journal rows of a shard: events, roll-ups, charges and the cursor in one transaction, so that each
 * event counts once whatever crashes. True: there may be more.
 *
 * The lock on the cursor's row makes it the only one for the shard; another one that comes finds it taken and leaves.
 * Leases that wait for nothing more come first, in a transaction of their own: both move balances, and a transaction
 * moves them once, in one order. Rows after a draining lease's fence wait until what is left of it is back: they may
 * have to be paid from it. Positions of other shards are passed by.
 */
export async function projectNext(tx: Tx, shard: number, now: Date): Promise<boolean> {
  const cursor = await tx.maybeOne(sql.type(cursorRow)`
    select position from projector_cursors where shard = ${shard} for update skip locked
  `);
  if (cursor === null) {
    return false;
  }
  if ((await closeDrainedLeases(tx, { shard, position: cursor.position }, now)) > 0) {
    return true;
  }
  const { head, read } = await readRows(tx, shard, cursor.position);
  // Read after the rows: a row that an ended lease did not pay for comes after that lease's end.
  const fence = await findFence(tx, shard);
  const end = fence !== null && fence < head ? fence : head;
  const ready = read.filter((row) => row.position <= end);
  const rows = takeRows(ready);
  const isAll =
    rows.length === ready.length && (read.length < rowsMax || read.length > ready.length);
  const position = isAll ? end : (rows.at(-1)?.position ?? cursor.position);
  if (position <= cursor.position) {
    return read.length > 0;
  }
  await applyRows(tx, { shard, rows }, now);
  await tx.query(sql.type(nothing)`
    update projector_cursors set position = ${position}, updated_at = ${now.toISOString()}
    where shard = ${shard}
  `);
  return true;
}

/** The journal's head, and the shard's next rows: of one snapshot, so that none up to the head is missing. */
async function readRows(
  tx: Tx,
  shard: number,
  after: bigint,
): Promise<{ head: bigint; read: Row[] }> {
  const found = await tx.any(sql.type(journalRow)`
    select head.position as head, row.position, row.codec, row.body, row.entries, row.appended_at
    from journal_head as head
    left join lateral (
      select position, codec, body, entries, appended_at from usage_journal
      where shard = ${shard} and position > ${after}
      order by position limit ${rowsMax}
    ) as row on true
    order by row.position
  `);
  const read = found.flatMap(({ position, codec, body, entries, appended_at }) =>
    position === null || codec === null || body === null || entries === null || appended_at === null
      ? []
      : [{ position, codec, body, entries, receivedAt: new Date(appended_at) }],
  );
  return { head: found[0]?.head ?? after, read };
}

/** The rows up to the most entries, at least one. */
function takeRows(rows: readonly Row[]): Row[] {
  let entries = 0;
  return rows.filter((row, index) => {
    entries += Math.max(1, row.entries);
    return index === 0 || entries <= entriesMax;
  });
}

async function applyRows(
  tx: Tx,
  { shard, rows }: { shard: number; rows: readonly Row[] },
  now: Date,
): Promise<void> {
  const [first, last] = [rows.at(0), rows.at(-1)];
  if (first === undefined || last === undefined) {
    return;
  }
  const { placed, refused } = readEntries(rows, shard);
  await insertQuarantine(tx, refused);
  const batch = { shard, first: first.position, last: last.position };
  const inserted = await insertEvents(tx, firstOfEach(placed), batch);
  const fresh = placed.filter((one) => inserted.get(identity(one.entry)) === one);
  const repeats = placed.filter((one) => inserted.get(identity(one.entry)) !== one);
  await markRepeats(tx, repeats, shard);
  const entries = fresh.map((one) => one.entry);
  await addRollups(tx, entries);
  await chargeEvents(tx, { charges: await findPayers(tx, entries), ...batch }, now);
}

/** What the events cost, and whether their leases pay for it. */
async function findPayers(tx: Tx, entries: readonly UsageEntry[]): Promise<Charge[]> {
  const charged = entries.filter((entry) => entry.chargedNanos > 0n);
  const leased = charged.filter(({ lease }) => lease !== null);
  const covered = await spendLeases(
    tx,
    leased.map(({ account, mode, lease, chargedNanos }) => ({
      accountId: account,
      mode,
      leaseId: lease,
      nanos: chargedNanos,
    })),
  );
  const paid = new Set(leased.filter((_, index) => covered[index]));
  return charged.map((entry) => ({ entry, isLeased: paid.has(entry) }));
}

/** What can be read is placed; what cannot goes to quarantine as it came, and never stops the rest. */
function readEntries(rows: readonly Row[], shard: number) {
  const placed: Placed[] = [];
  const refused: Quarantined[] = [];
  for (const { position, codec, body, receivedAt } of rows) {
    for (const [ordinal, entry] of decodeRow({ codec, body }).entries.entries()) {
      const place = { position, ordinal };
      const none = { shard, place, mode: "live", chargedNanos: 0n } as const;
      if (entry.kind === "malformed") {
        const { raw, detail } = entry;
        refused.push({ ...none, accountId: "", reason: "MALFORMED", detail, raw });
      } else if ("correctionId" in entry) {
        const rest = { accountId: entry.account, raw: encodeRow([entry]) };
        const detail = "corrections cannot be applied yet";
        refused.push({ ...none, ...rest, reason: "POISONED", detail });
      } else {
        placed.push({ entry, place, receivedAt });
      }
    }
  }
  return { placed, refused };
}

function firstOfEach(placed: readonly Placed[]): Placed[] {
  const first = new Map<string, Placed>();
  for (const one of placed) {
    const key = identity(one.entry);
    if (!first.has(key)) {
      first.set(key, one);
    }
  }
  return [...first.values()];
}
