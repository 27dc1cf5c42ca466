import { hash } from "node:crypto";
import { type Pinned, statusOf, type UsageEntry, unitsOf } from "./entry.ts";

/** What a use costs, and how that came about. The tiers add up to the charge. */
export interface Rated {
  chargedNanos: bigint;
  /** How the price counts. */
  model: "per_call" | "free";
  units: bigint;
  /** The steps of the price that were used, from the first unit on: one, for a price without steps. */
  tiers: { fromUnit: bigint; units: bigint; unitNanos: bigint; amountNanos: bigint }[];
}

/** Rate a use at the price that was pinned when it came in. Nothing is charged from status 500 on. */
export function rate(price: Pinned, { units, status }: { units: bigint; status: number }): Rated {
  if (status >= 500) {
    return { chargedNanos: 0n, model: "free", units, tiers: [] };
  }
  const amountNanos = price.unitNanos * units;
  const tier = { fromUnit: 1n, units, unitNanos: price.unitNanos, amountNanos };
  return { chargedNanos: amountNanos, model: "per_call", units, tiers: [tier] };
}

/** What rate() charges, without the rest of it: the projector asks this of every event. */
export function chargeOf(entry: UsageEntry): bigint {
  return statusOf(entry) >= 500 ? 0n : entry.price.unitNanos * unitsOf(entry);
}

/** Rate an entry of the journal. */
export function rateEntry(entry: UsageEntry): Rated {
  return rate(entry.price, { units: unitsOf(entry), status: statusOf(entry) });
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
}

/** The canonical line of a rating: the same rating has the same bytes, another one has others. */
export function lineOf(parts: RatingParts): string {
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
  const { account, source, id, mode, price } = entry;
  const { version } = price;
  const [units, chargedNanos] = [unitsOf(entry), chargeOf(entry)];
  return lineOf({ account, source, id, mode, version, units, chargedNanos, feeNanos, bookedMonth });
}

/** The hash before the first line of a shard. */
export const emptyChain: Buffer = Buffer.alloc(32);

/** The hash after more lines. It depends on all lines and their order, never on how they were batched. */
export function chain(previous: Buffer, lines: readonly string[]): Buffer {
  const longest = lines.reduce((max, { length }) => Math.max(max, length), 0);
  // A unit of a string takes up to three bytes.
  const bytes = Buffer.allocUnsafe(previous.length + 3 * longest);
  let last = previous;
  for (const line of lines) {
    last.copy(bytes);
    const end = last.length + bytes.write(line, last.length);
    last = hash("sha256", bytes.subarray(0, end), "buffer");
  }
  return last;
}
