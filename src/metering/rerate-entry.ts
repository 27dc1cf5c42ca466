import { shareFloor } from "../lib/money.ts";
import { addMonths } from "./booked-month.ts";
import { encodeRow } from "./codec.ts";
import { bodyHash, type CorrectionEntry, identityKey, type UsageEntry } from "./entry.ts";
import { ratingLine } from "./rate.ts";
import { addFound, addShares } from "./rerate-batch.ts";
import { compareEvent, rateInPlace } from "./rerate-event.ts";
import {
  differ,
  isCorrection,
  isUsage,
  type Placed,
  placeOf,
  type Run,
  type Stored,
} from "./rerate-run.ts";
import type { CorrectionRow, QuarantinedRow, StoredEvent } from "./rerate-store.ts";

/** Hold an entry of the journal against what is stored of it. */
export function take(run: Run, placed: Placed, stored: Stored): void {
  const { entry } = placed;
  const kept = stored.quarantined.get(placeOf(placed));
  const open = run.open.get(placed.shard);
  if (open !== undefined && kept !== undefined) {
    open.found.quarantined += 1;
  }
  if (isUsage(entry)) {
    takeUsage(run, { ...placed, entry }, stored);
    return;
  }
  if (kept !== undefined) {
    const reason = entry.kind === "malformed" ? "MALFORMED" : "POISONED";
    compareKept(run, placed, kept, [reason]);
    return;
  }
  if (isCorrection(entry)) {
    const row = stored.corrections.get(`${entry.account} ${entry.correctionId}`);
    takeCorrection(run, { ...placed, entry }, row);
    return;
  }
  differ(run, { where: placeOf(placed), field: "quarantine", stored: "no", computed: "malformed" });
}

/** What was not applied is kept as it came, for one of the reasons that there can have been. */
function compareKept(
  run: Run,
  placed: Placed,
  kept: QuarantinedRow,
  reasons: readonly string[],
): void {
  const { entry } = placed;
  const where = placeOf(placed);
  if (!reasons.includes(kept.reason)) {
    const [left, right] = [kept.reason, reasons.join(" or ")];
    differ(run, { where, field: "quarantine.reason", stored: left, computed: right });
  }
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
  const mode = isUsage(entry) ? entry.mode : "live";
  if (!isCorrection(entry) && kept.mode !== mode) {
    const [left, right] = [kept.mode, mode];
    differ(run, { where, field: "quarantine.mode", stored: left, computed: right });
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
  // What came in an earlier month than the two before is another event, unless it was in quarantine since. Rows may be
  // appended in another order than their clocks say: hence the month after.
  const holders = (stored.holders.get(key) ?? []).filter(
    (row) =>
      entry.kind === "replay" ||
      (row.received_month >= addMonths(month, -2) && row.received_month <= addMonths(month, 1)),
  );
  compareReplayed(run, placed, stored);
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
    compareKept(run, placed, kept, reasonsOf(entry, earlier));
    if (kept.reason === "CONFLICT") {
      countRepeat(run, placed, earlier, "conflicts");
    }
    return;
  }
  if (earlier?.body_hash.equals(bodyHash(entry))) {
    countRepeat(run, placed, earlier, "duplicates");
    return;
  }
  // Nothing says what became of it: it should have been applied.
  differ(run, { where, field: "applied", stored: "no", computed: "yes" });
  apply(run, placed, null);
}

/** An event came again: its batch counts it, and so does the event. */
function countRepeat(
  run: Run,
  { shard }: Placed,
  earlier: StoredEvent | undefined,
  what: "duplicates" | "conflicts",
): void {
  const open = run.open.get(shard);
  if (open !== undefined) {
    open.found[what] += 1;
  }
  // What came again of events whose rows are removed is not counted anew.
  if (earlier !== undefined && earlier.position > run.after) {
    run.counts[what] += 1n;
  }
}

/** Why an event may be kept aside. What came back from there may be one whose other event is removed. */
function reasonsOf(entry: UsageEntry, earlier: StoredEvent | undefined): readonly string[] {
  if (earlier === undefined) {
    const reasons = ["OVER_LIMIT", "POISONED"];
    return entry.kind === "replay" ? [...reasons, "CONFLICT"] : reasons;
  }
  return earlier.body_hash.equals(bodyHash(entry)) ? ["POISONED"] : ["CONFLICT", "POISONED"];
}

/** What came back was let go where it was kept. */
function compareReplayed(
  run: Run,
  placed: Placed & { entry: UsageEntry },
  { replayed }: Stored,
): void {
  const { replays } = placed.entry;
  if (placed.entry.kind !== "replay" || replays === null) {
    return;
  }
  const stored = replayed.get(placeOf(replays));
  if (stored !== placed.position) {
    const where = placeOf(replays);
    const [left, right] = [String(stored ?? "none"), String(placed.position)];
    differ(run, { where, field: "quarantine.replay_position", stored: left, computed: right });
  }
}

function apply(run: Run, placed: Placed & { entry: UsageEntry }, own: StoredEvent | null): void {
  const { entry, shard, position, month, receivedAt } = placed;
  const { totals, closed, readRule } = run;
  const placing = rateInPlace(entry, { totals, shard, position, closed, readRule });
  const { feeNanos, bookedMonth, rated } = placing;
  const { chargedNanos } = rated;
  run.charged[entry.mode] += chargedNanos;
  const open = run.open.get(shard);
  if (open !== undefined) {
    const line = ratingLine({ entry, feeNanos, bookedMonth }, readRule);
    addFound(open.found, { mode: entry.mode, chargedNanos, feeNanos, line });
  }
  if (own === null) {
    return;
  }
  run.counts.events += 1n;
  const where = placeOf(placed);
  const wrong = compareEvent(own, { entry, placing, shard, month, receivedAt });
  differ(run, wrong === null ? null : { where, ...wrong });
  if (open !== undefined && own.batch_position !== open.row.last_position) {
    const [left, right] = [`${own.batch_position}`, `${open.row.last_position}`];
    differ(run, { where, field: "batch_position", stored: left, computed: right });
  }
  const split = addShares(run.batches, own, { isExact: open !== undefined });
  differ(run, split === null ? null : { where, ...split });
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
    ["is_void", row.is_void, entry.kind === "void"],
    ["reason", row.reason, entry.reason],
    ...(row.source === null && row.is_old ? [] : fieldsOfEvent(row, entry)),
  ];
  const wrong = fields.find(([, left, right]) => left !== right);
  if (wrong !== undefined) {
    const field = `correction.${wrong[0]}`;
    differ(run, { where, field, stored: String(wrong[1]), computed: String(wrong[2]) });
  }
}

/** What follows from the event that is corrected. */
function fieldsOfEvent(
  row: CorrectionRow,
  { source, id, adjustedNanos }: CorrectionEntry,
): [string, unknown, unknown][] {
  const { charged_then: charged, fee_then: fee } = row;
  return [
    ["source", row.source, source],
    ["id", row.event_id, id],
    ["delta_nanos", row.delta_nanos, adjustedNanos - (charged ?? 0n)],
    ["delta_fee_nanos", row.delta_fee_nanos, feeOf(row, adjustedNanos) - (fee ?? 0n)],
  ];
}

/** The platform's share of a corrected charge: of the first one what it was, of others the price's, rounded down. */
function feeOf(row: CorrectionRow, chargedNanos: bigint): bigint {
  const { charged_first: first, fee_first: fee, fee_basis_points: basisPoints } = row;
  return chargedNanos === first ? (fee ?? 0n) : shareFloor(chargedNanos, basisPoints ?? 0);
}
