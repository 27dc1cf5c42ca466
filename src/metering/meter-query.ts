import { sql } from "slonik";
import { z } from "zod";
import type { Queries, Tx } from "../db/pool.ts";
import { readSnapshot } from "../db/snapshot.ts";
import { parseDecimal } from "../lib/decimal.ts";
import { countCalls, readRange } from "./meter-events.ts";
import {
  addReading,
  allGroupsKey,
  groupKeyOf,
  noSums,
  otherGroupsKey,
  resultOf,
  type Sums,
} from "./meter-fold.ts";
import { type Aggregation, compileMeter, dimensionText, openEvent } from "./meter-reading.ts";
import { isRecounting } from "./meter-recount-store.ts";
import { definitionOf, type MeterRow } from "./meter-store.ts";
import { listGroups } from "./meter-sums.ts";
import type { Window } from "./window.ts";

/** Values that one answer may have. */
export const valuesMax = 10_000;

/** Events that one answer may be counted from, when it is not made of sums. */
export const rawEventsMax = 200_000;

/** Sums, and different values in them, that one answer may be made of. */
const sumsMax = 1_000_000;

/** Thrown when sums of the range are being counted anew, after an event was taken back. */
export class RecountingError extends Error {
  override name = "RecountingError";
}

/** Thrown when an answer would have too many values, or be counted from too many events. */
export class QueryTooLargeError extends Error {
  override name = "QueryTooLargeError";
}

/** What to ask a meter for. */
export interface MeterQuery {
  mode: "live" | "test";
  /** At least one; they follow each other. */
  windows: readonly Window[];
  /** Groups to keep apart, by their places in the definition. */
  groupBy: readonly number[];
  /** Conditions on groups, by their places in the definition. All must hold. */
  filters: readonly { group: number; values: readonly string[]; exclude: boolean }[];
}

/** The value of a window and of groups. */
export interface MeterValue {
  window: Window;
  /** The texts of the groups that are kept apart, in the order that they were asked for. */
  texts: readonly string[];
  value: string;
  events: bigint;
  skipped: bigint;
}

/** The groups that a question is about: those of one label are counted together. */
interface Labels {
  /** By key of group. */
  labels: ReadonlyMap<string, number>;
  /** Keys of all groups that the meter keeps apart. */
  known: ReadonlySet<string>;
  texts: readonly (readonly string[])[];
}

type Result = Omit<Sums, "uniques"> & { uniques: number };

/**
 * Ask a meter's sums, as the first in a transaction. The windows must start with quarters of an hour. Throws
 * QueryTooLargeError and RecountingError.
 */
export async function queryRollups(
  tx: Tx,
  row: MeterRow,
  query: MeterQuery,
): Promise<MeterValue[]> {
  await readSnapshot(tx);
  const { account_id: accountId, id: meterId } = row;
  if (await isRecounting(tx, { accountId, meterId, mode: query.mode, ...rangeOf(query) })) {
    throw new RecountingError("Cannot ask the meter: it counts anew where an event was taken back");
  }
  const labels = await labelsOf(tx, row, query);
  const sums = await sumRollups(tx, { row, query, labels });
  const uniques =
    row.aggregation === "unique_count" ? await countUniques(tx, { row, query, labels }) : new Map();
  const results = new Map(
    sums.map(({ key, result }) => [key, { ...result, uniques: uniques.get(key) ?? 0 }]),
  );
  return toValues({ row, query, texts: labels.texts }, results);
}

/**
 * Count the answer from the events themselves. The transaction must see those of all consumers for the developer's
 * side. Throws QueryTooLargeError.
 */
export async function queryEvents(
  tx: Queries,
  row: MeterRow,
  query: MeterQuery,
): Promise<MeterValue[]> {
  const labels = await labelsOf(tx, row, query);
  const read = compileMeter(definitionOf(row));
  const { account_id: accountId, side, aggregation } = row;
  const { windows, mode } = query;
  const range = { accountId, side, mode, ...rangeOf(query) };
  refuseMore(await countCalls(tx, range), rawEventsMax, "events");
  const sums = new Map<string, Sums>();
  let count = 0;
  for await (const events of readRange(tx, range)) {
    count += events.length;
    refuseMore(count, rawEventsMax, "events");
    for (const event of events.filter(({ isVoided }) => !isVoided)) {
      const reading = read(openEvent(event));
      const label = reading === null ? undefined : labelOf(labels, reading.groups);
      if (reading !== null && label !== undefined) {
        const key = `${windowAt(windows, Number(event.timeMicros / 1_000n))} ${label}`;
        const sum = sums.get(key) ?? noSums();
        sums.set(key, sum);
        addReading(sum, reading, { aggregation, event });
      }
    }
  }
  const results = new Map(
    [...sums].map(([key, sum]) => [key, { ...sum, uniques: sum.uniques.size }]),
  );
  return toValues({ row, query, texts: labels.texts }, results);
}

/** The time that a question is about. */
export function rangeOf({ windows }: MeterQuery): Window {
  return { startMs: windows[0]?.startMs ?? 0, endMs: windows.at(-1)?.endMs ?? 0 };
}

/** By window, then by label. A question without groups has a value for each window. */
function toValues(
  of: { row: MeterRow; query: MeterQuery; texts: Labels["texts"] },
  results: ReadonlyMap<string, Result>,
): MeterValue[] {
  const { row, query, texts } = of;
  const isGrouped = query.groupBy.length > 0;
  refuseMore(isGrouped ? results.size : query.windows.length, valuesMax, "values");
  const none = { ...noSums(), uniques: 0 };
  const found = isGrouped
    ? [...results].map(([key, result]) => ({ ...readKey(key), result })).sort(byPlace)
    : query.windows.map((_, at) => ({ at, label: 0, result: results.get(`${at} 0`) ?? none }));
  return found.flatMap(({ at, label, result }) => {
    const window = query.windows[at];
    const value = resultOf(row.aggregation, result);
    const [events, skipped] = [BigInt(result.events), BigInt(result.skipped)];
    const ofLabel = texts[label] ?? [];
    return window === undefined ? [] : [{ window, texts: ofLabel, value, events, skipped }];
  });
}

function readKey(key: string): { at: number; label: number } {
  const [at, label] = key.split(" ");
  return { at: Number(at), label: Number(label) };
}

function byPlace(a: { at: number; label: number }, b: { at: number; label: number }): number {
  return a.at - b.at || a.label - b.label;
}

/** The groups of a question, in the order of their texts. */
async function labelsOf(tx: Queries, row: MeterRow, query: MeterQuery): Promise<Labels> {
  const { groupBy, filters } = query;
  if (row.groups.length === 0 || (groupBy.length === 0 && filters.length === 0)) {
    return { labels: new Map([[allGroupsKey, 0]]), known: new Set(), texts: [[]] };
  }
  const groups = await listGroups(tx, { accountId: row.account_id, meterId: row.id });
  const holds = filters.map(({ group, values, exclude }) => {
    const listed = new Set(values.map(dimensionText));
    return (texts: readonly string[]) => listed.has(texts[group] ?? "") !== exclude;
  });
  const wanted = groups
    .filter(({ texts }) => holds.every((check) => check(texts)))
    .map(({ group_key: key, texts }) => ({ key, texts: groupBy.map((at) => texts[at] ?? "") }));
  const byText = new Map(wanted.map(({ texts }) => [JSON.stringify(texts), texts]));
  const texts = groupBy.length === 0 ? [[]] : [...byText].sort(byKey).map(([, value]) => value);
  const places = new Map(texts.map((value, label) => [JSON.stringify(value), label]));
  const labels = new Map(
    wanted.map((group) => [group.key, places.get(JSON.stringify(group.texts)) ?? 0]),
  );
  return { labels, known: new Set(groups.map((group) => group.group_key)), texts };
}

function byKey([a]: [string, unknown], [b]: [string, unknown]): number {
  return a < b ? -1 : 1;
}

/** The label of an event's groups. Undefined when they are not asked for. */
function labelOf({ labels, known }: Labels, groups: readonly string[]): number | undefined {
  const key = groupKeyOf(groups);
  return labels.get(allGroupsKey) ?? labels.get(known.has(key) ? key : otherGroupsKey);
}

function windowAt(windows: readonly Window[], timeMs: number): number {
  let [first, end] = [0, windows.length];
  while (end - first > 1) {
    const middle = (first + end) >> 1;
    if ((windows[middle]?.startMs ?? 0) <= timeMs) {
      first = middle;
    } else {
      end = middle;
    }
  }
  return first;
}

const decimal = z
  .string()
  .transform((text) => parseDecimal(text, Number.POSITIVE_INFINITY))
  .nullable();

const sumRow = z.object({
  sums: z.bigint(),
  window: z.number(),
  label: z.number(),
  events: z.bigint(),
  skipped: z.bigint(),
  value: decimal,
});

type Value = bigint | null;

interface Asked {
  row: MeterRow;
  query: MeterQuery;
  labels: Labels;
}

async function sumRollups(tx: Queries, { row, query, labels }: Asked) {
  const { starts, first, end, wanted } = boundsOf(query, labels);
  const { column, toSums } = neededSum(row.aggregation);
  const rows = await tx.any(sql.type(sumRow)`
    with asked as (
      select rollup.*, label
      from meter_rollups as rollup join ${wanted} as wanted (group_key, label) using (group_key)
      where account_id = ${row.account_id} and meter_id = ${row.id} and mode = ${query.mode}
        and bucket >= ${first} and bucket < ${end}
      limit ${sumsMax + 1}
    )
    select (sum(count(*)) over ())::int8 as sums,
      width_bucket(bucket, ${starts}) - 1 as window, label, sum(events)::int8 as events,
      sum(skipped)::int8 as skipped, (${column})::text as value
    from asked group by 2, 3
    limit ${valuesMax + 1}
  `);
  refuseMore(Number(rows[0]?.sums ?? 0n), sumsMax, "sums");
  refuseMore(rows.length, valuesMax, "values");
  return rows.map(({ window, label, events, skipped, value }) => ({
    key: `${window} ${label}`,
    result: {
      ...noSums(),
      events: Number(events),
      skipped: Number(skipped),
      ...toSums(value),
    },
  }));
}

/** The one sum that an aggregation is made of: others would take as long again, and the latest has to sort all. */
function neededSum(aggregation: Aggregation) {
  switch (aggregation) {
    case "count":
    case "unique_count":
      return { column: sql.fragment`null`, toSums: () => ({}) };
    case "sum":
    case "avg":
      return { column: sql.fragment`sum(total)`, toSums: (total: Value) => ({ total }) };
    case "min":
      return { column: sql.fragment`min(least)`, toSums: (least: Value) => ({ least }) };
    case "max":
      return { column: sql.fragment`max(greatest)`, toSums: (greatest: Value) => ({ greatest }) };
    case "latest": {
      const column = sql.fragment`
        (array_agg(latest order by latest_at desc, latest_position desc, latest_ordinal desc)
          filter (where latest is not null))[1]
      `;
      const last = { timeMicros: 0n, position: 0n, ordinal: 0 };
      const toSums = (value: Value) => (value === null ? {} : { latest: { value, ...last } });
      return { column, toSums };
    }
  }
}

const uniqueRow = z.object({
  values: z.bigint(),
  window: z.number(),
  label: z.number(),
  count: z.number(),
});

async function countUniques(tx: Queries, { row, query, labels }: Asked) {
  const { starts, first, end, wanted } = boundsOf(query, labels);
  const rows = await tx.any(sql.type(uniqueRow)`
    with asked as (
      select bucket, value_hash, label
      from meter_uniques join ${wanted} as wanted (group_key, label) using (group_key)
      where account_id = ${row.account_id} and meter_id = ${row.id} and mode = ${query.mode}
        and bucket >= ${first} and bucket < ${end}
      limit ${sumsMax + 1}
    )
    select (sum(count(*)) over ())::int8 as values,
      width_bucket(bucket, ${starts}) - 1 as window, label,
      count(distinct value_hash)::int4 as count
    from asked group by 2, 3
    limit ${valuesMax}
  `);
  refuseMore(Number(rows[0]?.values ?? 0n), sumsMax, "values");
  return new Map(rows.map(({ window, label, count }) => [`${window} ${label}`, count]));
}

function boundsOf({ windows }: MeterQuery, { labels }: Labels) {
  const starts = windows.map(({ startMs }) => new Date(startMs).toISOString());
  return {
    starts: sql.array(starts, "timestamptz"),
    first: starts[0] ?? "",
    end: new Date(windows.at(-1)?.endMs ?? 0).toISOString(),
    wanted: sql.unnest([...labels], ["text", "int4"]),
  };
}

function refuseMore(count: number, max: number, what: string): void {
  if (count > max) {
    throw new QueryTooLargeError(`Cannot ask the meter: the answer is of more than ${max} ${what}`);
  }
}
