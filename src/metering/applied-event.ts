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

/** A correction that was applied. */
export interface Corrected {
  place: Place;
  id: string;
  /** The event as it was applied. */
  target: Applied;
  isVoid: boolean;
  /** What it adds to the charge, and to the platform's share of it. Negative when it takes from them. */
  deltaNanos: bigint;
  deltaFeeNanos: bigint;
  /** The first day of the month that it is billed in. */
  bookedMonth: string;
}

/** What corrections are applied with. */
export interface BatchContext {
  shard: number;
  /** The last position that is applied with them: their transfers count from it. */
  batchPosition: bigint;
  /** The months that bills were made of, by first day, and the positions that they were closed at. */
  closed: ReadonlyMap<string, bigint>;
  now: Date;
}
