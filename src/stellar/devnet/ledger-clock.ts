import { type LedgerRow, lastAtMost } from "./history.ts";
import type { LedgerPosition } from "./ledger.ts";
import { ledgerHash } from "./record.ts";

/**
 * Seconds between ledgers while nothing is submitted. The network closes empty ledgers all the
 * time, and clients wait for that to learn that a transaction has expired. Here they are reckoned
 * from the clock instead of written down: the same after a restart, at no cost.
 */
const idleCloseSeconds = 5;

/** A ledger as readers see it; an empty one has no row of its own. */
export type LedgerView = LedgerPosition & {
  hash: string;
  previousHash: string;
  /** The last written ledger up to this one. */
  row: LedgerRow;
  isEmpty: boolean;
};

/** The latest ledger at a time. */
export function latestLedger(ledgers: readonly LedgerRow[], now: Date): LedgerView {
  const row = ledgers.at(-1);
  if (row === undefined) throw new Error("Cannot tell the latest ledger: none is closed");
  const idle = Math.floor((seconds(now) - row.closeTime) / idleCloseSeconds);
  return viewAfter(row, Math.max(0, idle));
}

/** The ledger of a sequence number, or null when it is not closed yet or never was. */
export function ledgerAt(
  ledgers: readonly LedgerRow[],
  sequence: number,
  latest: LedgerView,
): LedgerView | null {
  if (sequence > latest.sequence) return null;
  const row = ledgers[lastAtMost(ledgers, (known) => known.sequence, sequence)];
  return row === undefined ? null : viewAfter(row, sequence - row.sequence);
}

/** The ledger that closes next. Close times are whole seconds and always rise. */
export function nextPosition(latest: LedgerPosition, now: Date): LedgerPosition {
  return {
    sequence: latest.sequence + 1,
    closeTime: Math.max(seconds(now), latest.closeTime + 1),
  };
}

function viewAfter(row: LedgerRow, idle: number): LedgerView {
  const sequence = row.sequence + idle;
  const hashAt = (empty: number) =>
    empty === 0 ? row.hash : ledgerHash(row.hash, row.sequence + empty, "empty");
  return {
    sequence,
    closeTime: row.closeTime + idle * idleCloseSeconds,
    hash: hashAt(idle),
    previousHash: idle === 0 ? row.previousHash : hashAt(idle - 1),
    row,
    isEmpty: idle > 0,
  };
}

function seconds(now: Date): number {
  return Math.floor(now.getTime() / 1000);
}
