import type { Aggregation } from "../../src/metering/meter-reading.ts";
import type { Window } from "../../src/metering/window.ts";

/** A use in a model of meters. */
export interface ModelEvent {
  consumer: string;
  developer: string;
  mode: "live" | "test";
  timeMs: number;
  /** In the order of the journal. */
  order: number;
  /** In thousandths. Null: no number. */
  value: number | null;
  /** The same for the same value, whatever its kind. Null: none. */
  scalar: string | null;
  /** The text of each group. */
  groups: readonly string[];
  status: number;
  isVoided: boolean;
}

/** What a meter says of a window and of groups. */
export interface ModelValue {
  startMs: number;
  groups: readonly string[];
  value: string;
  events: number;
  skipped: number;
}

/** What a meter must answer, by going through all events for each window and each group. */
export function modelValues(
  events: readonly ModelEvent[],
  of: {
    aggregation: Aggregation;
    windows: readonly Window[];
    groupBy: readonly number[];
    holds: (event: ModelEvent) => boolean;
  },
): ModelValue[] {
  const seen = events.filter((event) => !event.isVoided && of.holds(event));
  const texts = [
    ...new Map(
      seen.map((event) => {
        const list = of.groupBy.map((at) => event.groups[at] ?? "");
        return [JSON.stringify(list), list];
      }),
    ),
  ].sort(([a], [b]) => (a < b ? -1 : 1));
  const labels = of.groupBy.length === 0 ? [[]] : texts.map(([, list]) => list);
  return of.windows.flatMap(({ startMs, endMs }) =>
    labels.flatMap((groups) => {
      const inside = seen.filter(
        (event) =>
          event.timeMs >= startMs &&
          event.timeMs < endMs &&
          of.groupBy.every((at, index) => event.groups[at] === groups[index]),
      );
      return inside.length === 0 && of.groupBy.length > 0
        ? []
        : [{ startMs, groups, ...aggregate(inside, of.aggregation) }];
    }),
  );
}

function aggregate(all: readonly ModelEvent[], aggregation: Aggregation) {
  if (aggregation === "count") {
    return { value: String(all.length), events: all.length, skipped: 0 };
  }
  const isAnyScalar = aggregation === "unique_count";
  const counted = all.filter(({ value, scalar }) => (isAnyScalar ? scalar : value) !== null);
  const values = counted.map(({ value }) => value ?? Number.NaN);
  const latest = counted.toSorted((a, b) => a.timeMs - b.timeMs || a.order - b.order).at(-1);
  const sum = values.reduce((a, b) => a + b, 0);
  const value = {
    sum: decimalText(sum),
    avg: decimalText(sum, values.length),
    min: decimalText(Math.min(...values)),
    max: decimalText(Math.max(...values)),
    unique_count: String(new Set(counted.map(({ scalar }) => scalar)).size),
    latest: decimalText(latest?.value ?? 0),
  }[aggregation];
  const isNone = !isAnyScalar && counted.length === 0;
  return {
    value: isNone ? "" : value,
    events: counted.length,
    skipped: all.length - counted.length,
  };
}

/** `thousandths / 1000 / count` as a decimal, to 18 places, half to even. */
export function decimalText(thousandths: number, count = 1): string {
  if (count === 0 || !Number.isFinite(thousandths)) {
    return "";
  }
  const scaled = BigInt(Math.abs(thousandths)) * 10n ** 15n;
  let quotient = scaled / BigInt(count);
  const twice = (scaled % BigInt(count)) * 2n;
  if (twice > BigInt(count) || (twice === BigInt(count) && quotient % 2n === 1n)) {
    quotient += 1n;
  }
  const digits = quotient.toString().padStart(19, "0");
  const text = `${digits.slice(0, -18)}.${digits.slice(-18)}`.replace(/\.?0*$/, "");
  return thousandths < 0 && quotient !== 0n ? `-${text}` : text;
}
