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
  // What came in an earlier month than the two before is another event, unless it was in quarantine since. Rows may be
  // appended in another order than their clocks say: hence the month after.
  const holders = (stored.holders.get(key) ?? []).filter(
    (row) =>
      entry.kind === "replay" ||
      (row.received_month >= addMonths(month, -2) && row.received_month <= addMonths(month, 1)),
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
    ["delta_fee_nanos", row.delta_fee_nanos, feeOf(row, entry.adjustedNanos) - row.fee_then],
  ];
  const wrong = fields.find(([, left, right]) => left !== right);
  if (wrong !== undefined) {
    const field = `correction.${wrong[0]}`;
    differ(run, { where, field, stored: String(wrong[1]), computed: String(wrong[2]) });
  }
}

/** The platform's share of a corrected charge: of the first one what it was, of others the price's, rounded down. */
function feeOf(row: CorrectionRow, chargedNanos: bigint): bigint {
  const { charged_first: first, fee_first: fee, fee_basis_points: basisPoints } = row;
  return chargedNanos === first ? fee : shareFloor(chargedNanos, basisPoints);
}
