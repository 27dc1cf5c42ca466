import { hash } from "node:crypto";
import {
  chargeOf as chargeByRule,
  type Outcome,
  type PriceRule,
  parseRule,
  type Use,
} from "../catalog/price-rule.ts";
import { type Pinned, statusOf, type UsageEntry, unitsOf } from "./entry.ts";

/** What a use costs, and how that came about. The tiers add up to the charge. */
export interface Rated {
  chargedNanos: bigint;
  /** How the price counts. */
  model: "per_call" | "per_unit" | "graduated" | "volume" | "free";
  /** As they are stored: a rule may count fewer of them. */
  units: bigint;
  /**
   * The steps of the price that were used, from the first unit on. One from unit zero on is the part for the call
   * itself; a price without a rule has one step.
   */
  tiers: { fromUnit: bigint; units: bigint; unitNanos: bigint; amountNanos: bigint }[];
}

/** Rate a use at the price that was pinned when it came in. The rule, when there is one, must be readable. */
export function rate(price: Pinned, use: Use): Rated {
  const { units } = use;
  if (price.rule !== "") {
    return rateByRule(parseRule(price.rule), use);
  }
  if (isFreeWithoutRule(use)) {
    return { chargedNanos: 0n, model: "free", units, tiers: [] };
  }
  const amountNanos = price.unitNanos * units;
  const tier = { fromUnit: 1n, units, unitNanos: price.unitNanos, amountNanos };
  return { chargedNanos: amountNanos, model: "per_call", units, tiers: [tier] };
}

function isFreeWithoutRule({ status, outcome }: Pick<Use, "status" | "outcome">): boolean {
  return status >= 500 || outcome === "failed" || outcome === "timed_out";
}

function rateByRule(rule: PriceRule, use: Use): Rated {
  const { nanos: chargedNanos, isFree, tiers } = chargeByRule(rule, use);
  const { units } = use;
  if (isFree) {
    return { chargedNanos, model: "free", units, tiers };
  }
  const { callNanos } = rule;
  const call = { fromUnit: 0n, units: 1n, unitNanos: callNanos, amountNanos: callNanos };
  const isCharged = callNanos > 0n || tiers.length === 0;
  return { chargedNanos, model: modelOf(rule), units, tiers: isCharged ? [call, ...tiers] : tiers };
}

function modelOf({ tiers, mode }: PriceRule): Rated["model"] {
  if (tiers.length === 0) {
    return "per_call";
  }
  return tiers.length === 1 ? "per_unit" : mode;
}

/** What of an entry tells its charge. */
export type RatedUse = Pick<UsageEntry, "price" | "units" | "unitsBefore" | "status" | "outcome">;

/** What rate() charges, without the rest of it: the projector asks this of every event. */
export function chargeOf(entry: RatedUse): bigint {
  const { price, outcome } = entry;
  if (price.rule !== "") {
    return chargeByRule(parseRule(price.rule), useOf(entry)).nanos;
  }
  const isFree = isFreeWithoutRule({ status: statusOf(entry), outcome });
  return isFree ? 0n : price.unitNanos * unitsOf(entry);
}

/** Rate an entry of the journal. */
export function rateEntry(entry: UsageEntry): Rated {
  return rate(entry.price, useOf(entry));
}

function useOf(entry: RatedUse): Use {
  const { outcome, unitsBefore } = entry;
  return { units: unitsOf(entry), status: statusOf(entry), outcome, unitsBefore };
}

/** What a rating says of an event. */
export interface RatingParts {
  account: string;
  source: string;
  id: string;
  mode: string;
  version: number;
  units: bigint;
  chargedNanos: bigint;
  feeNanos: bigint;
  /** The first day of the month that it is billed in. */
  bookedMonth: string;
  outcome: Outcome;
  unitsBefore: bigint;
}

/**
 * The canonical line of a rating: the same rating has the same bytes, another one has others. One that says nothing of
 * an outcome and a month's units has the bytes that earlier versions gave it.
 */
export function lineOf(parts: RatingParts): string {
  const { outcome, unitsBefore } = parts;
  const isPlain = outcome === "whole" && unitsBefore === 0n;
  return JSON.stringify([
    parts.account,
    parts.source,
    parts.id,
    parts.mode,
    parts.version,
    parts.units.toString(),
    parts.chargedNanos.toString(),
    parts.feeNanos.toString(),
    parts.bookedMonth,
    ...(isPlain ? [] : [outcome, unitsBefore.toString()]),
  ]);
}

/** The canonical line of an entry, rated anew. */
export function ratingLine({
  entry,
  feeNanos,
  bookedMonth,
}: {
  entry: UsageEntry;
  feeNanos: bigint;
  bookedMonth: string;
}): string {
  const { account, source, id, mode, price, outcome, unitsBefore } = entry;
  const { version } = price;
  const rated = { units: unitsOf(entry), chargedNanos: chargeOf(entry), outcome, unitsBefore };
  return lineOf({ account, source, id, mode, version, feeNanos, bookedMonth, ...rated });
}

/** The hash before the first line of a shard. */
export const emptyChain: Buffer = Buffer.alloc(32);

/** The hash after more lines. It depends on all lines and their order, never on how they were batched. */
export function chain(previous: Buffer, lines: readonly string[]): Buffer {
  const longest = lines.reduce((max, { length }) => Math.max(max, length), 0);
  // A unit of a string takes up to three bytes.
  const bytes = Buffer.allocUnsafe(previous.length + 3 * longest);
  // As text, a unit a byte: a buffer takes longer to make.
  let last = previous.toString("latin1");
  for (const line of lines) {
    const begin = bytes.write(last, "latin1");
    last = hash("sha256", bytes.subarray(0, begin + bytes.write(line, begin)), "binary");
  }
  return Buffer.from(last, "latin1");
}
