import type { RuleReader } from "../catalog/price-rule.ts";
import type { Mode } from "../ledger/store.ts";
import type { Malformed } from "./codec.ts";
import type { CorrectionEntry, Entry, UsageEntry } from "./entry.ts";
import type { Batches, Found } from "./rerate-batch.ts";
import type { Difference, Totals } from "./rerate-event.ts";
import type { CorrectionRow, ProjectionRow, QuarantinedRow, StoredEvent } from "./rerate-store.ts";

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
  counts: Record<
    "events" | "quarantined" | "corrections" | "transfers" | "duplicates" | "conflicts",
    bigint
  >;
  totals: Totals;
}

/** An entry of the journal in its place. */
export interface Placed {
  entry: Entry | Malformed;
  shard: number;
  position: bigint;
  ordinal: number;
  /** The month that the journal received it in, as its first day. */
  month: string;
  receivedAt: Date;
}

/** Where a re-rating is. */
export interface Run extends Rerated {
  cursors: ReadonlyMap<number, bigint>;
  closed: ReadonlyMap<string, bigint>;
  readRule: RuleReader;
  batches: Batches;
  /** The batch of each shard that the run is in, and what it found of it. */
  open: Map<number, { row: ProjectionRow; found: Found }>;
  /** What the chain of each shard's ratings came to. */
  hashes: Map<number, Buffer>;
  /** Whether the chains begin with what is known of the rows that are removed. */
  isChained: boolean;
  next: bigint;
}

/** Note a difference. Only the first counts. */
export function differ(run: Run, difference: Difference | null): void {
  run.difference ??= difference;
}

/** What is stored of the entries of some rows. */
export interface Stored {
  holders: ReadonlyMap<string, StoredEvent[]>;
  quarantined: ReadonlyMap<string, QuarantinedRow>;
  /** Where entries that were kept aside came back, by their places. */
  replayed: ReadonlyMap<string, bigint | null>;
  corrections: ReadonlyMap<string, CorrectionRow>;
  projections: ReadonlyMap<number, ProjectionRow[]>;
}

/** Whether it is usage. */
export function isUsage(entry: Entry | Malformed): entry is UsageEntry {
  return entry.kind === "usage" || entry.kind === "replay";
}

/** Whether it corrects usage. */
export function isCorrection(entry: Entry | Malformed): entry is CorrectionEntry {
  return entry.kind === "void" || entry.kind === "adjust";
}

/** An event's place, `<position>.<ordinal>`. */
export function placeOf({ position, ordinal }: { position: bigint; ordinal: number }): string {
  return `${position}.${ordinal}`;
}
