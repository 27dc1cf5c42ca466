import type { CorrectionEntry, Place, UsageEntry } from "./entry.ts";

/** An event that was applied, and what it came to. Its charge is its entry's. */
export interface Applied {
  place: Place;
  /** The last position that was applied with it: names its transfers. */
  batchPosition: bigint;
  shard: number;
  entry: UsageEntry;
  receivedAt: Date;
  /** The first day of the month that it is billed in. */
  bookedMonth: string;
  /** The platform's share of the charge. */
  feeNanos: bigint;
  /** Paid by its lease. */
  leasedNanos: bigint;
  /** Paid by nothing: the consumer owes it. The rest of the charge was taken from the balance. */
  owedNanos: bigint;
  /** What the account was charged before it, in its mode. */
  chargedBefore: bigint;
}

/** A correction of the journal, and where it stands. */
export interface PlacedCorrection {
  place: Place;
  entry: CorrectionEntry;
}
