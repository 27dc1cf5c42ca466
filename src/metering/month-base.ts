import type { RuleReader } from "../catalog/price-rule.ts";
import { allOf, andThen, type MaybePromise } from "../lib/maybe-promise.ts";
import { countedUnits } from "./bill-lines.ts";
import { monthOf, type UsageEntry } from "./entry.ts";
import type { Receipt } from "./journal.ts";
import type { MonthCount, MonthUnits } from "./month-units.ts";
import { chargeOf } from "./rate.ts";

/** Events whose units count in the memory of their months already. One of the two is to be said. */
export interface PlacedEvents {
  /** They are in the journal. The receipt is that of all events. */
  written(receipt: Receipt): void;
  /** They are not, or nobody knows. */
  withdraw(): void;
}

/**
 * Set where the tiers of events begin whose price spans months: after what was used of their consumer's month as far as
 * is known, and after those before them in the list. What is charged follows from it. Others stay as they are.
 */
export function placeInMonths(
  monthUnits: MonthUnits,
  entries: readonly UsageEntry[],
  readRule: RuleReader,
): MaybePromise<PlacedEvents> {
  const spans = ({ price }: UsageEntry) =>
    price.rule !== "" && readRule(price.rule).span === "month";
  if (!entries.some(spans)) {
    return unplaced;
  }
  // All are known before one counts: else a month that cannot be read would leave others counted.
  const months = allOf(entries.map((entry) => (spans(entry) ? monthUnits.of(keyOf(entry)) : null)));
  return andThen(months, (known) => place(entries, known, readRule));
}

const unplaced: PlacedEvents = { written() {}, withdraw() {} };

function place(
  entries: readonly UsageEntry[],
  months: readonly (MonthCount | null)[],
  readRule: RuleReader,
): PlacedEvents {
  const placed: { count: MonthCount; units: bigint; index: number }[] = [];
  for (const [index, entry] of entries.entries()) {
    const count = months[index];
    if (count !== undefined && count !== null) {
      entry.unitsBefore = count.units;
      entry.chargedNanos = chargeOf(entry, readRule);
      const units = countedUnits(entry);
      count.count(units);
      placed.push({ count, units, index });
    }
  }
  return {
    written({ places }) {
      for (const { count, units, index } of placed) {
        count.written(units, places[index]?.position ?? 0n);
      }
    },
    withdraw() {
      for (const { count, units } of placed) {
        count.withdraw(units);
      }
    },
  };
}

function keyOf({ account, mode, price, timeMicros }: UsageEntry) {
  return { accountId: account, apiId: price.apiId, mode, month: monthOf(timeMicros) };
}
