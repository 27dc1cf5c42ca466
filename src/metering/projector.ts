import { sql } from "slonik";
import { z } from "zod";
import { closeDrainedLeases, closeWithoutReturn } from "../credits/lease-end.ts";
import { nothing, type Tx } from "../db/pool.ts";
import { applyAround, tryUsage } from "./apply-around.ts";
import { attempt } from "./attempt.ts";
import type { Refusal } from "./bisect.ts";
import { encodeRow } from "./codec.ts";
import { applyCorrections } from "./corrections.ts";
import type { Candidate, Decision } from "./decide.ts";
import { type ReadRow, readEntries, readNext } from "./journal-rows.ts";
import {
  type Batch,
  type Counts,
  insertMessages,
  insertProjection,
  type Message,
} from "./projections.ts";
import { insertQuarantine, type Quarantined } from "./quarantine.ts";
import { emptyChain } from "./rate.ts";
import { type ShardLease, shardLeaseMs } from "./shard-lease.ts";
import { findClosedMonths } from "./totals.ts";

/** How a round goes. */
export interface RoundOptions {
  /** Entries that it applies, as far as rows allow. */
  entriesMax: number;
  /** What an account may owe of which nothing else was said. */
  debtLimitNanos: bigint;
  /** Whether the cursor passes by what other shards have when its own has nothing: not needed after each append. */
  passesBy: boolean;
  now: Date;
}

/** What a round did. */
export interface Round {
  /** More: there may be more at once. Fenced: another one holds the shard, and nothing was done. */
  outcome: "more" | "idle" | "fenced";
  /** What is applied of the shard. */
  position: bigint;
  counts: Counts;
  /** Whose events were applied. */
  accounts: readonly string[];
  /** What somebody has to look at, though it stops nothing. */
  problem?: string | undefined;
}

const noCounts: Counts = { events: 0, duplicates: 0, conflicts: 0, quarantined: 0 };

/** Entries among which the refused ones are looked for. */
const searchEntriesMax = 1_000;

/**
 * Apply a shard's next rows: events, sums, money and the cursor in one transaction, so that each event counts once
 * whatever crashes. Throws what may pass; what fails for good goes to quarantine, and never stops the rest.
 *
 * The lock on the cursor's row, taken with the fence, makes it the only one for the shard. Rows are read before: while
 * they are on their way, a process that is stopped holds no lock, and afterwards the database ends its session.
 * Leases that wait for nothing more come first, in a transaction of their own: both move balances, and a transaction
 * moves them once, in one order. Rows after a draining lease's fence wait until what is left of it is back: they may
 * have to be paid from it.
 */
export async function projectShard(
  tx: Tx,
  lease: ShardLease,
  options: RoundOptions,
): Promise<Round> {
  const { shard } = lease;
  const next = await readNext(tx, shard, options.entriesMax);
  const { cursor, fence } = next;
  const end = fence !== null && fence < next.head ? fence : next.head;
  const isDrained = fence !== null && fence <= cursor;
  const isPassing = next.rows.length === 0 && fence === null;
  if ((end <= cursor && !isDrained) || (isPassing && !options.passesBy)) {
    return { outcome: "idle", position: cursor, counts: noCounts, accounts: [] };
  }
  const locked = await lockCursor(tx, lease, cursor);
  if (locked === null) {
    return { outcome: "fenced", position: cursor, counts: noCounts, accounts: [] };
  }
  if (isDrained) {
    const problem = await closeLeases(tx, { shard, position: cursor }, options.now);
    return { outcome: "more", position: cursor, counts: noCounts, accounts: [], problem };
  }
  const ready = next.rows.filter((row) => row.position <= end);
  const rows = sameKind(await readEntries(shard, ready));
  const { taken, counts, accounts } = await applyRows(tx, { ...lease, ...locked }, rows, options);
  const isAll = taken === ready.length && (next.isWhole || ready.length < next.rows.length);
  const position = isAll ? end : (rows[taken - 1]?.position ?? cursor);
  await moveCursor(tx, lease, { position, now: options.now });
  return { outcome: "more", position, counts, accounts };
}

/**
 * Give back what is left of drained leases. One whose account does not hold what is left of it ends without: the books
 * tell, and nobody waits for it. Returns which.
 */
async function closeLeases(
  tx: Tx,
  drained: { shard: number; position: bigint },
  now: Date,
): Promise<string | undefined> {
  const all = await attempt(tx, "leases", () => closeDrainedLeases(tx, drained, now));
  if ("done" in all) {
    return undefined;
  }
  const one = await attempt(tx, "lease", () =>
    closeDrainedLeases(tx, { ...drained, limit: 1 }, now),
  );
  if ("done" in one) {
    return undefined;
  }
  const id = await closeWithoutReturn(tx, drained);
  return `Cannot give back what is left of lease ${id}: ${one.detail}`;
}

const lockedRow = z.object({ rating_hash: z.instanceof(Buffer).nullable() });

/**
 * Lock the cursor, if it is still the lease's and where it was read. Returns what the shard's chain of ratings goes on
 * from: a projection comes only with the cursor's next position. Null: it is not.
 *
 * From here on it is bounded how long locks are waited for and held: the database ends the session of a process that
 * was stopped in the middle, so that another one can go on.
 */
async function lockCursor(
  tx: Tx,
  lease: ShardLease,
  position: bigint,
): Promise<{ ratingHash: Buffer } | null> {
  const row = await tx.maybeOne(sql.prepared("lock_projector_cursor", lockedRow)`
    select limits.*, (
      select rating_hash from projections where shard = ${lease.shard}
      order by last_position desc limit 1
    ) as rating_hash
    from (
      select set_config('idle_in_transaction_session_timeout', '2s', true) as idle,
        set_config('lock_timeout', '2s', true) as wait
    ) as limits
    cross join projector_cursors as cursor
    where shard = ${lease.shard} and holder = ${lease.holder} and fence = ${lease.fence}
      and position = ${position}
    for update of cursor
  `);
  return row === null ? null : { ratingHash: row.rating_hash ?? emptyChain };
}

/** Move the cursor. It is a sign of life, too. */
async function moveCursor(
  tx: Tx,
  { shard, fence }: ShardLease,
  { position, now }: { position: bigint; now: Date },
): Promise<void> {
  await tx.query(sql.prepared("move_projector_cursor", nothing)`
    update projector_cursors
    set position = ${position}, updated_at = ${now.toISOString()},
      lease_end = clock_timestamp() + ${shardLeaseMs}::int4 * interval '1 ms'
    where shard = ${shard} and fence = ${fence}
  `);
}

/** Corrections are applied one after the other, while another shard may wait for what they lock. */
const correctionsMax = 50;

/** The rows up to the first that has corrections after usage, or usage after corrections, or too many of them. */
function sameKind(rows: readonly ReadRow[]): ReadRow[] {
  let corrections = 0;
  const other = rows.findIndex((row, index) => {
    corrections += row.corrections.length;
    const isOther = row.corrections.length > 0 !== (rows[0]?.corrections.length ?? 0) > 0;
    return index > 0 && (isOther || corrections > correctionsMax);
  });
  return other === -1 ? [...rows] : rows.slice(0, other);
}

/** Apply as many of the rows as one transaction takes: fewer, when something among them is refused for good. */
async function applyRows(
  tx: Tx,
  held: Held,
  rows: readonly ReadRow[],
  options: RoundOptions,
): Promise<{ taken: number; counts: Counts; accounts: string[] }> {
  const whole = toBatch(held, rows);
  if (whole === null) {
    return { taken: 0, counts: noCounts, accounts: [] };
  }
  const usage = rows.flatMap((row) => row.usage);
  const tried = await tryUsage(tx, whole, usage, options);
  if ("decision" in tried) {
    const counts = await finish(
      tx,
      whole,
      { rows, decision: tried.decision, poisoned: [] },
      options,
    );
    return { taken: rows.length, counts, accounts: accountsOf(tried.decision) };
  }
  const some = firstRows(rows);
  const batch = toBatch(held, some) ?? whole;
  const found = await applyAround(
    tx,
    batch,
    some.flatMap((row) => row.usage),
    options,
  );
  const counts = await finish(tx, batch, { rows: some, ...found }, options);
  return { taken: some.length, counts, accounts: accountsOf(found.decision) };
}

function accountsOf({ applied }: Decision): string[] {
  return [...new Set(applied.map(({ entry }) => entry.account))];
}

/** A shard whose cursor is locked. */
type Held = Pick<Batch, "shard" | "fence" | "ratingHash">;

function toBatch({ shard, fence, ratingHash }: Held, rows: readonly ReadRow[]): Batch | null {
  const [first, last] = [rows.at(0), rows.at(-1)];
  return first === undefined || last === undefined
    ? null
    : { shard, fence, ratingHash, first: first.position, last: last.position };
}

/** The rows up to the most entries among which refused ones are looked for, at least one. */
function firstRows(rows: readonly ReadRow[]): ReadRow[] {
  let entries = 0;
  return rows.filter((row, index) => {
    entries += row.usage.length;
    return index === 0 || entries <= searchEntriesMax;
  });
}

interface Found {
  rows: readonly ReadRow[];
  decision: Decision;
  poisoned: readonly { item: Candidate; refusal: Refusal }[];
}

/** Apply what follows from the usage, and note what came of the batch. */
async function finish(
  tx: Tx,
  batch: Batch,
  { rows, decision, poisoned }: Found,
  { now }: RoundOptions,
): Promise<Counts> {
  const { shard, last: batchPosition } = batch;
  const { applied, repeated, refused } = decision;
  const corrections = rows.flatMap((row) => row.corrections);
  const failed: Quarantined[] = [];
  if (corrections.length > 0) {
    const closed = await findClosedMonths(tx, "1970-01-01");
    const result = await applyCorrections(tx, corrections, { shard, batchPosition, closed, now });
    failed.push(...result.failed);
  }
  const quarantined = [
    ...rows.flatMap((row) => row.malformed),
    ...refused.map((one) => toQuarantined(shard, one)),
    ...poisoned.map(({ item, refusal }) =>
      toQuarantined(shard, { candidate: item, reason: "POISONED", detail: refusal.detail }),
    ),
    ...failed,
  ];
  await insertQuarantine(tx, quarantined);
  await insertMessages(tx, messagesOf(applied, quarantined), shard);
  const again = [...applied, ...repeated];
  const counts = {
    events: applied.length,
    duplicates: again.reduce((sum, { duplicates }) => sum + duplicates, 0),
    conflicts: again.reduce((sum, { conflicts }) => sum + conflicts, 0),
    quarantined: quarantined.length,
  };
  await insertProjection(tx, batch, { counts, applied, now });
  return counts;
}

function toQuarantined(
  shard: number,
  { candidate, reason, detail }: Decision["refused"][number],
): Quarantined {
  const { entry, key, place } = candidate;
  const { account: accountId, mode, chargedNanos } = entry;
  return {
    shard,
    place,
    accountId,
    key,
    mode,
    reason,
    detail,
    raw: encodeRow([entry]),
    chargedNanos,
  };
}

/** Accounts are told what of theirs is kept aside, and what they came to owe: once a batch. */
function messagesOf(applied: Decision["applied"], quarantined: readonly Quarantined[]): Message[] {
  const messages = new Map<string, Message>();
  for (const { accountId, reason, place } of quarantined) {
    const key = `${accountId} ${reason}`;
    const count = Number(messages.get(key)?.payload.count ?? 0) + 1;
    const payload = { reason, count, position: String(place.position) };
    if (accountId !== "") {
      messages.set(key, { accountId, topic: "usage.quarantined", payload });
    }
  }
  for (const { entry, owedNanos } of applied) {
    if (owedNanos > 0n) {
      const key = `${entry.account} ${entry.mode}`;
      const before = BigInt(messages.get(key)?.payload.owedNanos ?? 0);
      const payload = { mode: entry.mode, owedNanos: String(before + owedNanos) };
      messages.set(key, { accountId: entry.account, topic: "usage.owed", payload });
    }
  }
  return [...messages.values()];
}
