import { rememberRules } from "../catalog/price-rule.ts";
import type { Tx } from "../db/pool.ts";
import { decodeRow } from "./codec.ts";
import { identityKey } from "./entry.ts";
import {
  accountsOf,
  compareProjection,
  compareTransfers,
  nothingFound,
  withoutCut,
} from "./rerate-batch.ts";
import { take } from "./rerate-entry.ts";
import {
  differ,
  isCorrection,
  isUsage,
  type Placed,
  placeOf,
  type Rerated,
  type Run,
  type Stored,
} from "./rerate-run.ts";
import { loadStart } from "./rerate-start.ts";
import {
  findCorrections,
  findHolders,
  findHoldersEver,
  findReplayed,
  findUsageTransfers,
  readCursors,
  readJournal,
  readProjections,
  readQuarantined,
  type StoredEvent,
} from "./rerate-store.ts";
import { findClosedMonths } from "./totals.ts";

/**
 * Rate all of the journal again, and compare what comes out with events, quarantine, corrections, batches and
 * transfers, in the journal's order.
 *
 * Reads in parts, whose sum never matters: memory holds a few thousand entries and one total for each account. The
 * transaction must show one state (readSnapshot).
 */
export async function rerate(tx: Tx): Promise<Rerated> {
  const cursors = await readCursors(tx);
  const upTo = [...cursors.values()].reduce((max, one) => (one > max ? one : max), 0n);
  const start = await loadStart(tx);
  const run: Run = {
    difference: null,
    after: start.after,
    upTo,
    charged: { live: 0n, test: 0n },
    corrected: { live: 0n, test: 0n },
    counts: {
      events: 0n,
      quarantined: 0n,
      corrections: 0n,
      transfers: 0n,
      duplicates: 0n,
      conflicts: 0n,
    },
    totals: start.totals,
    cursors,
    closed: await findClosedMonths(tx, "0001-01-01"),
    readRule: rememberRules(),
    batches: new Map(),
    open: new Map(),
    hashes: new Map(start.hashes),
    isChained: start.hashes !== null,
    next: start.after + 1n,
  };
  if (start.after > start.archived) {
    differ(run, { where: `${start.archived + 1n}`, field: "row", stored: "none", computed: "one" });
  }
  while (run.next <= upTo) {
    const rows = await readJournal(tx, { after: run.next - 1n, upTo });
    const last = rows.at(-1)?.position;
    if (last === undefined) {
      differ(run, { where: `${run.next}`, field: "row", stored: "none", computed: "one" });
      break;
    }
    await takeRows(tx, run, rows);
    run.next = last + 1n;
  }
  closeProjections(run, null);
  await closeBatches(tx, run, null);
  return run;
}

async function takeRows(
  tx: Tx,
  run: Run,
  rows: Awaited<ReturnType<typeof readJournal>>,
): Promise<void> {
  const range = { first: run.next, last: rows.at(-1)?.position ?? run.next };
  const applied = rows.filter(({ shard, position }) => position <= (run.cursors.get(shard) ?? 0n));
  const placed = applied.map((row) => ({
    row,
    entries: decodeRow(row).entries.map((entry, ordinal) => ({
      entry,
      shard: row.shard,
      position: row.position,
      ordinal,
      month: row.received_month,
      receivedAt: new Date(row.appended_at),
    })),
  }));
  const stored = await readStored(
    tx,
    placed.flatMap(({ entries }) => entries),
    range,
  );
  const places = new Set<string>();
  let expected = run.next;
  for (const { position } of rows) {
    if (position !== expected) {
      differ(run, { where: `${expected}`, field: "row", stored: "none", computed: "one" });
    }
    expected = position + 1n;
  }
  for (const { row, entries } of placed) {
    openProjection(run, row, stored);
    for (const one of entries) {
      places.add(placeOf(one));
      take(run, one, stored);
    }
  }
  for (const [place, kept] of stored.quarantined) {
    run.counts.quarantined += 1n;
    // A row that another entry took the place of, or none.
    if (!places.has(place) && kept.position <= range.last) {
      differ(run, { where: place, field: "quarantine", stored: "yes", computed: "no such entry" });
    }
  }
  closeProjections(run, range.last);
  await closeBatches(tx, run, range.last);
}

async function readStored(
  tx: Tx,
  placed: readonly Placed[],
  range: { first: bigint; last: bigint },
): Promise<Stored> {
  const usage = placed.flatMap(({ entry, month }) =>
    isUsage(entry)
      ? [{ entry, account: entry.account, key: identityKey(entry.source, entry.id), month }]
      : [],
  );
  const replayed = usage.filter(({ entry }) => entry.kind === "replay");
  const corrections = placed.flatMap(({ entry }) =>
    isCorrection(entry) ? [{ account: entry.account, id: entry.correctionId }] : [],
  );
  const holders = usage.length === 0 ? [] : await findHolders(tx, usage);
  const holdersEver = replayed.length === 0 ? [] : await findHoldersEver(tx, replayed);
  const quarantined = await readQuarantined(tx, range);
  const places = replayed.flatMap(({ entry }) => entry.replays ?? []);
  const cameBack = places.length === 0 ? [] : await findReplayed(tx, places);
  const corrected = corrections.length === 0 ? [] : await findCorrections(tx, corrections);
  const projections = await readProjections(tx, range);
  return {
    holders: new Map([...byIdentity(holders), ...byIdentity(holdersEver)]),
    quarantined: new Map(quarantined.map((row) => [placeOf(row), row])),
    replayed: new Map(cameBack.map((row) => [placeOf(row), row.replay_position])),
    corrections: new Map(corrected.map((row) => [`${row.account_id} ${row.id}`, row])),
    projections: Map.groupBy(projections, (row) => row.shard),
  };
}

function byIdentity(rows: readonly StoredEvent[]): Map<string, StoredEvent[]> {
  const latestFirst = rows.toSorted((a, b) => (a.received_month < b.received_month ? 1 : -1));
  return Map.groupBy(latestFirst, (row) => `${row.account_id} ${row.key}`);
}

/** Find the batch that a row was applied in. Rows of earlier versions have none. */
function openProjection(
  run: Run,
  { shard, position }: { shard: number; position: bigint },
  { projections }: Stored,
): void {
  const current = run.open.get(shard);
  if (current !== undefined && position <= current.row.last_position) {
    return;
  }
  closeProjection(run, shard);
  const row = projections
    .get(shard)
    ?.find(
      ({ first_position, last_position }) =>
        first_position <= position && position <= last_position,
    );
  if (row !== undefined) {
    run.open.set(shard, { row, found: nothingFound(run.hashes.get(shard)) });
  } else if (run.hashes.has(shard)) {
    const where = `projections, batch of ${shard}:${position}`;
    differ(run, { where, field: "row", stored: "none", computed: "one" });
  }
}

/** Compare the batches that end up to a position; null: all. */
function closeProjections(run: Run, upTo: bigint | null): void {
  for (const [shard, { row }] of [...run.open]) {
    if (upTo === null || row.last_position <= upTo) {
      closeProjection(run, shard);
    }
  }
}

function closeProjection(run: Run, shard: number): void {
  const open = run.open.get(shard);
  if (open === undefined) {
    return;
  }
  const { row, found } = open;
  run.open.delete(shard);
  if (row.first_position <= run.after) {
    // Its first rows are removed: only the chain goes on from it.
    run.hashes.set(shard, row.rating_hash);
    return;
  }
  const isTakenUp = !run.isChained && !run.hashes.has(shard);
  const compared = isTakenUp ? { ...found, hash: row.rating_hash } : found;
  run.hashes.set(shard, compared.hash);
  differ(run, compareProjection(row, compared));
}

/** Compare the transfers of the batches that end up to a position; null: of all. */
async function closeBatches(tx: Tx, run: Run, upTo: bigint | null): Promise<void> {
  const ended = [...run.batches].filter(([, { last }]) => upTo === null || last <= upTo);
  const batches = ended.map(([, batch]) => batch);
  if (batches.length === 0) {
    return;
  }
  const rows = await findUsageTransfers(tx, accountsOf(batches));
  const whole = withoutCut(batches, rows, run.after);
  run.counts.transfers += BigInt(whole.rows.length);
  const [first = null] = compareTransfers(whole.batches, whole.rows);
  differ(run, first);
  for (const [key] of ended) {
    run.batches.delete(key);
  }
}
