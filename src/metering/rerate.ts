import type { Tx } from "../db/pool.ts";
import type { Mode } from "../ledger/store.ts";
import { decodeRow, encodeRow, type Malformed } from "./codec.ts";
import {
  bodyHash,
  type CorrectionEntry,
  type Entry,
  identityKey,
  type UsageEntry,
} from "./entry.ts";
import { ratingLine } from "./rate.ts";
import {
  accountsOf,
  addFound,
  addShares,
  type Batches,
  compareProjection,
  compareTransfers,
  type Found,
  nothingFound,
} from "./rerate-batch.ts";
import { compareEvent, type Difference, rateInPlace, type Totals } from "./rerate-event.ts";
import { loadStart } from "./rerate-start.ts";
import {
  type CorrectionRow,
  findCorrections,
  findHolders,
  findUsageTransfers,
  type ProjectionRow,
  type QuarantinedRow,
  readCursors,
  readJournal,
  readPeriods,
  readProjections,
  readQuarantined,
  type StoredEvent,
} from "./rerate-store.ts";

/** What rating the journal again came to. */
export interface Rerated {
  /** The first place where the tables are not what the journal gives. */
  difference: Difference | null;
  /** The journal was rated after this position. Rows up to it are removed. */
  after: bigint;
  upTo: bigint;
  charged: Record<Mode, bigint>;
  /** What corrections added to the charges. */
  corrected: Record<Mode, bigint>;
  counts: { events: bigint; quarantined: bigint; corrections: bigint; transfers: bigint };
  totals: Totals;
}

/** An entry of the journal in its place. */
interface Placed {
  entry: Entry | Malformed;
  shard: number;
  position: bigint;
  ordinal: number;
  /** The month that the journal received it in, as its first day. */
  month: string;
}

interface Run extends Rerated {
  cursors: ReadonlyMap<number, bigint>;
  closed: ReadonlyMap<string, bigint>;
  batches: Batches;
  /** The batch of each shard that the run is in, and what it found of it. */
  open: Map<number, { row: ProjectionRow; found: Found }>;
  hashes: Map<number, Buffer>;
  isWhole: boolean;
  next: bigint;
}

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
    counts: { events: 0n, quarantined: 0n, corrections: 0n, transfers: 0n },
    totals: start.totals,
    cursors,
    closed: await readPeriods(tx),
    batches: new Map(),
    open: new Map(),
    hashes: new Map(),
    isWhole: start.after === 0n,
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

/** Only the first counts. */
function differ(run: Run, difference: Difference | null): void {
  run.difference ??= difference;
}

/** What is stored of the entries of some rows. */
interface Stored {
  holders: ReadonlyMap<string, StoredEvent[]>;
  quarantined: ReadonlyMap<string, QuarantinedRow>;
  corrections: ReadonlyMap<string, CorrectionRow>;
  projections: ReadonlyMap<number, ProjectionRow[]>;
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
      ? [{ account: entry.account, key: identityKey(entry.source, entry.id), month }]
      : [],
  );
  const corrections = placed.flatMap(({ entry }) =>
    isCorrection(entry) ? [{ account: entry.account, id: entry.correctionId }] : [],
  );
  const holders = usage.length === 0 ? [] : await findHolders(tx, usage);
  const quarantined = await readQuarantined(tx, range);
  const corrected = corrections.length === 0 ? [] : await findCorrections(tx, corrections);
  const projections = await readProjections(tx, range);
  return {
    holders: Map.groupBy(holders, (row) => `${row.account_id} ${row.key}`),
    quarantined: new Map(quarantined.map((row) => [placeOf(row), row])),
    corrections: new Map(corrected.map((row) => [`${row.account_id} ${row.id}`, row])),
    projections: Map.groupBy(projections, (row) => row.shard),
  };
}

function isUsage(entry: Entry | Malformed): entry is UsageEntry {
  return entry.kind === "usage" || entry.kind === "replay";
}

function isCorrection(entry: Entry | Malformed): entry is CorrectionEntry {
  return entry.kind === "void" || entry.kind === "adjust";
}

function placeOf({ position, ordinal }: { position: bigint; ordinal: number }): string {
  return `${position}.${ordinal}`;
}

function take(run: Run, placed: Placed, stored: Stored): void {
  const { entry } = placed;
  const kept = stored.quarantined.get(placeOf(placed));
  if (isUsage(entry)) {
    takeUsage(run, { ...placed, entry }, stored);
    return;
  }
  if (kept !== undefined) {
    compareKept(run, placed, kept);
    return;
  }
  if (isCorrection(entry)) {
    const row = stored.corrections.get(`${entry.account} ${entry.correctionId}`);
    takeCorrection(run, { ...placed, entry }, row);
    return;
  }
  differ(run, { where: placeOf(placed), field: "quarantine", stored: "no", computed: "malformed" });
}

/** What was not applied is kept as it came. */
function compareKept(run: Run, placed: Placed, kept: QuarantinedRow): void {
  const { entry } = placed;
  const where = placeOf(placed);
  // Earlier versions kept the event as JSON, and what else they kept of it was less.
  if (kept.raw === null) {
    return;
  }
  const raw = entry.kind === "malformed" ? entry.raw : encodeRow([entry]);
  if (!kept.raw.equals(raw)) {
    const [left, right] = [kept.raw.toString("hex"), raw.toString("hex")];
    differ(run, { where, field: "quarantine.raw", stored: left, computed: right });
  }
  const account = entry.kind === "malformed" ? "" : entry.account;
  if (kept.account_id !== account) {
    const [left, right] = [kept.account_id, account];
    differ(run, { where, field: "quarantine.account_id", stored: left, computed: right });
  }
  if (isUsage(entry) && kept.charged_nanos !== entry.chargedNanos) {
    const [left, right] = [`${kept.charged_nanos}`, `${entry.chargedNanos}`];
    differ(run, { where, field: "quarantine.charged_nanos", stored: left, computed: right });
  }
}

function takeUsage(run: Run, placed: Placed & { entry: UsageEntry }, stored: Stored): void {
  const { entry, position, ordinal, month } = placed;
  const where = placeOf(placed);
  const kept = stored.quarantined.get(where);
  const key = `${entry.account} ${identityKey(entry.source, entry.id)}`;
  // Whoever came in an earlier month than the two before is another event.
  const holders = (stored.holders.get(key) ?? []).filter(
    (row) => row.received_month <= month && row.received_month >= monthsBefore(month, 2),
  );
  const own = holders.find((row) => row.position === position && row.ordinal === ordinal);
  const earlier = holders.find(
    (row) => row.position < position || (row.position === position && row.ordinal < ordinal),
  );
  if (own !== undefined) {
    const other = kept === undefined ? earlier && placeOf(earlier) : "quarantine";
    if (other !== undefined) {
      differ(run, { where, field: "applied", stored: `and ${other}`, computed: "once" });
    }
    apply(run, placed, own);
    return;
  }
  if (kept !== undefined) {
    compareKept(run, placed, kept);
    return;
  }
  if (earlier?.body_hash.equals(bodyHash(entry))) {
    const open = run.open.get(placed.shard);
    if (open !== undefined) {
      open.found.duplicates += 1;
    }
    return;
  }
  // Nothing says what became of it: it should have been applied.
  differ(run, { where, field: "applied", stored: "no", computed: "yes" });
  apply(run, placed, null);
}

function apply(run: Run, placed: Placed & { entry: UsageEntry }, own: StoredEvent | null): void {
  const { entry, shard, position, month } = placed;
  const { totals, closed } = run;
  const placing = rateInPlace(entry, { totals, shard, position, closed });
  const { feeNanos, bookedMonth, rated } = placing;
  const { chargedNanos } = rated;
  run.charged[entry.mode] += chargedNanos;
  const open = run.open.get(shard);
  if (open !== undefined) {
    const line = ratingLine({ entry, feeNanos, bookedMonth });
    addFound(open.found, { mode: entry.mode, chargedNanos, feeNanos, line });
  }
  if (own === null) {
    return;
  }
  run.counts.events += 1n;
  const where = placeOf(placed);
  const wrong = compareEvent(own, { entry, placing, shard, month });
  differ(run, wrong === null ? null : { where, ...wrong });
  if (open !== undefined && own.batch_position !== open.row.last_position) {
    const [left, right] = [`${own.batch_position}`, `${open.row.last_position}`];
    differ(run, { where, field: "batch_position", stored: left, computed: right });
  }
  addShares(run.batches, own, { isExact: open !== undefined });
}

function takeCorrection(
  run: Run,
  placed: Placed & { entry: CorrectionEntry },
  row: CorrectionRow | undefined,
): void {
  const { entry } = placed;
  const where = placeOf(placed);
  if (row === undefined) {
    differ(run, { where, field: "corrected", stored: "no", computed: entry.correctionId });
    return;
  }
  run.counts.corrections += 1n;
  run.corrected[row.mode] += row.delta_nanos;
  const fields: [string, unknown, unknown][] = [
    ["place", placeOf(row), where],
    ["source", row.source, entry.source],
    ["id", row.event_id, entry.id],
    ["is_void", row.is_void, entry.kind === "void"],
    ["reason", row.reason, entry.reason],
    ["delta_nanos", row.delta_nanos, entry.adjustedNanos - row.charged_then],
  ];
  const wrong = fields.find(([, left, right]) => left !== right);
  if (wrong !== undefined) {
    const field = `correction.${wrong[0]}`;
    differ(run, { where, field, stored: String(wrong[1]), computed: String(wrong[2]) });
  }
}

function monthsBefore(month: string, months: number): string {
  const [year = 0, number = 0] = month.split("-").map(Number);
  return new Date(Date.UTC(year, number - 1 - months, 1)).toISOString().slice(0, 10);
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
  // Where the journal's begin is removed, the chain is taken up from the first batch.
  const isTakenUp = !run.isWhole && !run.hashes.has(shard);
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
  run.counts.transfers += BigInt(rows.length);
  const [first = null] = compareTransfers(batches, rows);
  differ(run, first);
  for (const [key] of ended) {
    run.batches.delete(key);
  }
}
