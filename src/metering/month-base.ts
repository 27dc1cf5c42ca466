import type { RuleReader } from "../catalog/price-rule.ts";
import type { Database } from "../db/database.ts";
import { listMonthUnits, type MonthUnitsKey } from "./bill-lines.ts";
import { monthOf, type UsageEntry, unitsOf } from "./entry.ts";
import { chargeOf } from "./rate.ts";
import { entryLimits } from "./row-limits.ts";

/**
 * Set where the tiers of events begin whose price spans months: after what is applied of their consumer's month, and
 * after those before them in the list. What is charged follows from it. Others stay as they are.
 */
export async function placeInMonths(
  db: Pick<Database, "systemStatement">,
  entries: readonly UsageEntry[],
  readRule: RuleReader,
): Promise<void> {
  const spanning = entries.filter(
    ({ price }) => price.rule !== "" && readRule(price.rule).span === "month",
  );
  if (spanning.length === 0) {
    return;
  }
  const keys = new Map(spanning.map((entry) => [nameOf(keyOf(entry)), keyOf(entry)]));
  const applied = await db.systemStatement((tx) => listMonthUnits(tx, [...keys.values()]));
  const used = new Map([...keys.keys()].map((name, index) => [name, applied[index] ?? 0n]));
  for (const entry of spanning) {
    const name = nameOf(keyOf(entry));
    const before = used.get(name) ?? 0n;
    entry.unitsBefore = before < entryLimits.unitsMax ? before : entryLimits.unitsMax;
    entry.chargedNanos = chargeOf(entry, readRule);
    used.set(name, before + unitsOf(entry));
  }
}

function keyOf({ account, mode, price, timeMicros }: UsageEntry): MonthUnitsKey {
  return { accountId: account, apiId: price.apiId, mode, month: monthOf(timeMicros) };
}

function nameOf({ accountId, apiId, mode, month }: MonthUnitsKey): string {
  return `${accountId} ${apiId} ${mode} ${month}`;
}
