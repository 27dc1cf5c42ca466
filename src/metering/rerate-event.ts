import { outcomes, type RuleReader } from "../catalog/price-rule.ts";
import { shareFloor } from "../lib/money.ts";
import { bookedMonth } from "./booked-month.ts";
import { bodyHash, monthOf, statusOf, type UsageEntry } from "./entry.ts";
import { type Rated, rateEntry } from "./rate.ts";
import type { StoredEvent } from "./rerate-store.ts";

/** Two values that should be the same: what a table holds, and what the journal gives. */
export interface Difference {
  /** An event's place `<position>.<ordinal>`, or the table and key of another row. */
  where: string;
  field: string;
  stored: string;
  computed: string;
}

/** What the events before one came to: everything that its rating depends on besides itself. */
export interface Totals {
  /** What a developer's events came to, by shard, developer, mode and the platform's share. */
  gross: Map<string, bigint>;
  /** What an account was charged, by account and mode. */
  charged: Map<string, bigint>;
}

/** The key of a developer's total. */
export function grossKey(
  shard: number,
  of: { developer: string; mode: string; basisPoints: number },
): string {
  return `${of.developer} ${of.mode} ${of.basisPoints} ${shard}`;
}

/** An entry's rating in its place. */
export interface Placing {
  rated: Rated;
  feeNanos: bigint;
  chargedBefore: bigint;
  bookedMonth: string;
}

/** Rate an entry that is applied after what the totals hold, and add it to them. */
export function rateInPlace(
  entry: UsageEntry,
  {
    totals,
    shard,
    position,
    closed,
    readRule,
  }: {
    totals: Totals;
    shard: number;
    position: bigint;
    closed: ReadonlyMap<string, bigint>;
    readRule: RuleReader;
  },
): Placing {
  const rated = rateEntry(entry, readRule);
  const { developerId: developer, feeBasisPoints: basisPoints } = entry.price;
  const key = grossKey(shard, { developer, mode: entry.mode, basisPoints });
  const gross = totals.gross.get(key) ?? 0n;
  const total = gross + rated.chargedNanos;
  totals.gross.set(key, total);
  const consumer = `${entry.account} ${entry.mode}`;
  const chargedBefore = totals.charged.get(consumer) ?? 0n;
  totals.charged.set(consumer, chargedBefore + rated.chargedNanos);
  return {
    rated,
    feeNanos: shareFloor(total, basisPoints) - shareFloor(gross, basisPoints),
    chargedBefore,
    bookedMonth: bookedMonth(monthOf(entry.timeMicros), position, closed),
  };
}

/** The first field in which a stored event is not what the journal gives. Null when all are the same. */
export function compareEvent(
  stored: StoredEvent,
  {
    entry,
    placing,
    shard,
    month,
    receivedAt,
  }: {
    entry: UsageEntry;
    placing: Placing;
    shard: number;
    month: string;
    receivedAt: Date;
  },
): Omit<Difference, "where"> | null {
  const { price } = entry;
  const { rated, feeNanos, chargedBefore, bookedMonth } = placing;
  const fields: (readonly [string, unknown, unknown])[] = [
    ["source", stored.source, entry.source],
    ["id", stored.id, entry.id],
    ["mode", stored.mode, entry.mode],
    ["api_id", stored.api_id, price.apiId],
    ["developer_account_id", stored.developer_account_id, price.developerId],
    ["key_id", stored.key_id, entry.keyId],
    ["endpoint", stored.endpoint, entry.endpoint],
    ["status_code", stored.status_code, statusOf(entry)],
    ["occurred_at (µs)", stored.occurred_micros, entry.timeMicros],
    ["price_version", stored.price_version, price.version],
    ["fee_basis_points", stored.fee_basis_points, price.feeBasisPoints],
    ["units", stored.units, rated.units],
    ["outcome", outcomes[stored.outcome], entry.outcome],
    ["units_before", stored.units_before, entry.unitsBefore],
    ["charged_nanos", stored.charged_nanos, rated.chargedNanos],
    ["fee_nanos", stored.fee_nanos, feeNanos],
    ["booked_month", stored.booked_month, bookedMonth],
    // Of what costs nothing it tells nothing.
    ...(rated.chargedNanos === 0n
      ? []
      : [["charged_before_nanos", stored.charged_before_nanos, chargedBefore] as const]),
    ["lease_id", stored.lease_id, entry.lease],
    ["shard", stored.shard, shard],
    ["received_month", stored.received_month, month],
    ["received_at", new Date(stored.received_at).toISOString(), receivedAt.toISOString()],
    ["body_hash", stored.body_hash.toString("hex"), bodyHash(entry).toString("hex")],
    ["data", stored.data, entry.data],
    // What the door promised is what re-rating finds.
    ["charged_nanos (promised)", entry.chargedNanos, rated.chargedNanos],
  ];
  const wrong = fields.find(([, left, right]) => left !== right);
  return wrong === undefined
    ? null
    : { field: wrong[0], stored: String(wrong[1]), computed: String(wrong[2]) };
}
