import { createHash } from "node:crypto";
import { divHalfEven, formatDecimal } from "../lib/decimal.ts";
import type { Aggregation, MeteredEvent, Reading } from "./meter-reading.ts";

/** What the values of some events come to, as far as the aggregation needs it. Decimals are times 10^18. */
export interface Sums {
  /** Events that gave a value. */
  events: number;
  /** Events that gave none. */
  skipped: number;
  total: bigint | null;
  least: bigint | null;
  greatest: bigint | null;
  latest: Latest | null;
  /** Hashes of different values. */
  uniques: Set<string>;
}

/** The value of the latest event, and when that was. */
export interface Latest {
  value: bigint;
  timeMicros: bigint;
  position: bigint;
  ordinal: number;
}

/** The sums of no events. */
export function noSums(): Sums {
  return {
    events: 0,
    skipped: 0,
    total: null,
    least: null,
    greatest: null,
    latest: null,
    uniques: new Set(),
  };
}

/** Add what was read of an event. The order in which events are added makes no difference. */
export function addReading(
  sums: Sums,
  { value }: Reading,
  { aggregation, event }: { aggregation: Aggregation; event: MeteredEvent },
): void {
  if (value === null) {
    sums.skipped += 1;
    return;
  }
  sums.events += 1;
  if (typeof value === "string") {
    sums.uniques.add(value);
    return;
  }
  switch (aggregation) {
    case "sum":
    case "avg":
      sums.total = (sums.total ?? 0n) + value;
      break;
    case "min":
      sums.least = sums.least === null || value < sums.least ? value : sums.least;
      break;
    case "max":
      sums.greatest = sums.greatest === null || value > sums.greatest ? value : sums.greatest;
      break;
    case "latest": {
      const { timeMicros, position, ordinal } = event;
      const latest = { value, timeMicros, position, ordinal };
      sums.latest = isLater(latest, sums.latest) ? latest : sums.latest;
      break;
    }
    case "count":
    case "unique_count":
      break;
  }
}

/** What an aggregation makes of the sums, as an exact decimal. Empty when there is no value. */
export function resultOf(
  aggregation: Aggregation,
  sums: Omit<Sums, "uniques"> & { uniques: number },
): string {
  const { events, total, least, greatest, latest } = sums;
  switch (aggregation) {
    case "count":
      return String(events);
    case "unique_count":
      return String(sums.uniques);
    case "sum":
      return shown(total);
    case "avg":
      return shown(total === null ? null : divHalfEven(total, BigInt(events)));
    case "min":
      return shown(least);
    case "max":
      return shown(greatest);
    case "latest":
      return shown(latest?.value ?? null);
  }
}

/** The key of the sums of all groups of a meter. */
export const allGroupsKey = "";

/** The key of the sums of groups that came when a meter had as many as it may have, and the text of each of them. */
export const otherGroupsKey = "…";

/** The key of a group: short, whatever its texts are, and no two groups have the same. */
export function groupKeyOf(groups: readonly string[]): string {
  const hash = createHash("sha256");
  for (const text of groups) {
    hash.update(`${Buffer.byteLength(text)}:${text}`);
  }
  return hash.digest("base64url").slice(0, 22);
}

function shown(value: bigint | null): string {
  return value === null ? "" : formatDecimal(value);
}

function isLater(a: Latest, b: Latest | null): boolean {
  if (b === null || a.timeMicros !== b.timeMicros) {
    return b === null || a.timeMicros > b.timeMicros;
  }
  return a.position === b.position ? a.ordinal > b.ordinal : a.position > b.position;
}
