import fc from "fast-check";
import { expect, test } from "vitest";
import { addReading, groupKeyOf, noSums, resultOf, type Sums } from "./meter-fold.ts";
import {
  type Aggregation,
  compileMeter,
  dimensionText,
  isDimension,
  type MeterDefinition,
  type MeteredEvent,
  openEvent,
} from "./meter-reading.ts";

const event: MeteredEvent = {
  apiId: "api_1",
  endpoint: "GET /",
  statusCode: 200,
  keyId: null,
  data: "",
  timeMicros: 0n,
  position: 1n,
  ordinal: 0,
};

const definition: MeterDefinition = {
  aggregation: "sum",
  valuePath: "$.v",
  groups: [],
  filters: [],
  side: "consumer",
};

function fold(meter: MeterDefinition, events: readonly MeteredEvent[]): Map<string, Sums> {
  const read = compileMeter(meter);
  const sums = new Map<string, Sums>();
  for (const one of events) {
    const reading = read(openEvent(one));
    if (reading !== null) {
      const key = JSON.stringify(reading.groups);
      const sum = sums.get(key) ?? noSums();
      sums.set(key, sum);
      addReading(sum, reading, { aggregation: meter.aggregation, event: one });
    }
  }
  return sums;
}

function results(meter: MeterDefinition, events: readonly MeteredEvent[]) {
  return Object.fromEntries(
    [...fold(meter, events)]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, sums]) => [
        key,
        [
          resultOf(meter.aggregation, { ...sums, uniques: sums.uniques.size }),
          sums.events,
          sums.skipped,
        ],
      ]),
  );
}

const withValues = (...values: unknown[]) =>
  values.map((value, ordinal) => ({
    ...event,
    ordinal,
    timeMicros: BigInt(values.length - ordinal),
    data: typeof value === "string" ? value : JSON.stringify({ v: value }),
  }));

test.for([
  ["sum", "0.3"],
  ["count", "2"],
  ["avg", "0.15"],
  ["min", "0.1"],
  ["max", "0.2"],
  ["unique_count", "2"],
  ["latest", "0.1"],
] as const)("%s of 0.1 and 0.2 is %s", ([aggregation, value]) => {
  const valuePath = aggregation === "count" ? "" : "$.v";

  expect(results({ ...definition, aggregation, valuePath }, withValues(0.1, 0.2))).toEqual({
    "[]": [value, 2, 0],
  });
});

test("what is no number is skipped, and counted", () => {
  const events = withValues("", "{", "{}", null, true, [1], { a: 1 }, "x", '{"v":1e99}', 1);

  expect(results(definition, [...events, ...withValues('{"v":"2.5"}')])).toEqual({
    "[]": ["3.5", 2, 9],
  });
  expect(results(definition, events.slice(0, -1))).toEqual({ "[]": ["", 0, 9] });
});

test("different values are counted by kind and value, not by how they are written", () => {
  const events = withValues('{"v":1}', '{"v":1.0}', '{"v":10e-1}', '{"v":"1"}', '{"v":true}');
  const more = withValues('{"v":"true"}', '{"v":1e400}', '{"v":10e399}', '{"v":null}', '{"v":{}}');

  expect(results({ ...definition, aggregation: "unique_count" }, [...events, ...more])).toEqual({
    "[]": ["5", 8, 2],
  });
});

test("of events of one time, the later in the journal is the latest", () => {
  const at = (position: bigint, ordinal: number, v: number) => ({
    ...event,
    position,
    ordinal,
    data: JSON.stringify({ v }),
  });
  const events = [at(2n, 1, 4), at(1n, 9, 3), at(2n, 0, 2), at(1n, 8, 1)];

  for (const order of [events, events.toReversed()]) {
    expect(results({ ...definition, aggregation: "latest" }, order)).toEqual({ "[]": ["4", 4, 0] });
  }
});

test("an average is rounded half to even at the eighteenth place", () => {
  const avg = (...values: number[]) =>
    results({ ...definition, aggregation: "avg" }, withValues(...values))["[]"]?.[0];

  expect(avg(1, 1, 0)).toBe("0.666666666666666667");
  expect(avg(1e-18, 0)).toBe("0");
  expect(avg(3e-18, 0)).toBe("0.000000000000000002");
  expect(avg(-1, 0, 0)).toBe("-0.333333333333333333");
});

test("filters must all hold, by field and by data; what is absent is the empty text", () => {
  const events: MeteredEvent[] = [
    { ...event, data: '{"v":1,"m":"a"}' },
    { ...event, data: '{"v":10,"m":"b"}', statusCode: 500 },
    { ...event, data: '{"v":100}', keyId: "key_1" },
    { ...event, data: '{"v":1000,"m":2.0}', apiId: "api_2" },
    { ...event, data: '{"v":10000,"m":false}', endpoint: "POST /" },
  ];
  const sumOf = (...filters: MeterDefinition["filters"]) =>
    results({ ...definition, filters }, events)["[]"]?.[0];

  expect(sumOf({ path: "$.m", values: ["a", "2"], exclude: false })).toBe("1001");
  expect(sumOf({ path: "$.m", values: [""], exclude: false })).toBe("100");
  expect(sumOf({ path: "$.m", values: ["", "false"], exclude: true })).toBe("1011");
  expect(sumOf({ path: "status_code", values: ["500"], exclude: true })).toBe("11101");
  expect(sumOf({ path: "key_id", values: ["key_1"], exclude: false })).toBe("100");
  expect(sumOf({ path: "endpoint", values: ["POST /"], exclude: false })).toBe("10000");
  expect(
    sumOf(
      { path: "api_id", values: ["api_1"], exclude: false },
      { path: "status_code", values: ["200"], exclude: false },
    ),
  ).toBe("10101");
});

test("groups have texts that the database holds, and no two of them become one", () => {
  const long = "x".repeat(300);
  const texts = ["", "a", long, `${long}y`, "😀".repeat(150), `😀${"😀".repeat(150)}`, "\u0001"];

  expect(new Set(texts.map(dimensionText)).size).toBe(texts.length);
  for (const text of [...texts, "\0", "\ud800", "😀".repeat(101), `a${"😀".repeat(101)}`]) {
    const shown = dimensionText(text);
    expect(shown.length).toBeLessThanOrEqual(200);
    expect(shown.isWellFormed()).toBe(true);
    expect(shown).not.toContain("\0");
    expect(dimensionText(shown)).toBe(shown);
  }
});

test("no two groups share a key, wherever their texts are cut", () => {
  const groups = [[], [""], ["", ""], ["a", "b"], ["ab"], ["ab", ""], ["", "ab"], ["1:a"], ["…"]];

  expect(new Set(groups.map(groupKeyOf)).size).toBe(groups.length);
});

test.for(["api_id", "endpoint", "status_code", "key_id", "$.a", "$['a']"])("%s is read", (path) => {
  expect(isDimension(path)).toBe(true);
});

test.for(["", "account_id", "constructor", "__proto__", "a", "$..a"])("%j is not", (path) => {
  expect(isDimension(path)).toBe(false);
});

const aggregations: Aggregation[] = ["sum", "count", "avg", "min", "max", "unique_count", "latest"];

/** In thousandths; null is no number. */
const someValue = fc.option(fc.integer({ min: -5_000, max: 5_000 }), { freq: 5 });
const someEvent = fc.record({
  value: someValue,
  group: fc.constantFrom("a", "b", undefined),
  status: fc.constantFrom(200, 404, 500),
  time: fc.nat(3),
});

test("the fold is what a plain count by hand gives, in whatever order events come", () => {
  fc.assert(
    fc.property(
      fc.constantFrom(...aggregations),
      fc.array(someEvent, { maxLength: 40 }),
      fc.boolean(),
      (aggregation, list, isReversed) => {
        const events = list.map(({ value, group, status, time }, index) => ({
          ...event,
          statusCode: status,
          timeMicros: BigInt(time),
          position: BigInt(index >> 2),
          ordinal: index & 3,
          data: `{"v":${value === null ? '"none"' : value / 1_000},"g":${JSON.stringify(group ?? null)}}`,
        }));
        const meter: MeterDefinition = {
          aggregation,
          valuePath: aggregation === "count" ? "" : "$.v",
          groups: [{ name: "g", path: "$.g" }],
          filters: [{ path: "status_code", values: ["500"], exclude: true }],
          side: "consumer",
        };

        const found = results(meter, isReversed ? events.toReversed() : events);

        expect(found).toEqual(byHand(aggregation, list));
      },
    ),
    { numRuns: 500 },
  );
});

function byHand(
  aggregation: Aggregation,
  list: { value: number | null; group: string | undefined; status: number; time: number }[],
) {
  const all: Record<string, [string, number, number]> = {};
  const kept = list.filter(({ status }) => status !== 500);
  for (const group of [...new Set(kept.map((one) => one.group ?? ""))].sort()) {
    const of = kept.filter((one) => (one.group ?? "") === group);
    const isText = aggregation === "count" || aggregation === "unique_count";
    const counted = of.filter(({ value }) => isText || value !== null);
    const values = counted.map(({ value }) => value ?? Number.NaN);
    const sum = values.reduce((a, b) => a + b, 0);
    const last = counted.reduce<(typeof counted)[number] | null>(
      (best, one) => (best === null || one.time >= best.time ? one : best),
      null,
    );
    const result = {
      count: String(of.length),
      unique_count: String(new Set(counted.map(({ value }) => value)).size),
      sum: decimal(sum, 1n),
      avg: decimal(sum, BigInt(values.length)),
      min: decimal(Math.min(...values), 1n),
      max: decimal(Math.max(...values), 1n),
      latest: decimal(last?.value ?? 0, 1n),
    }[aggregation];
    const isNone = !isText && counted.length === 0;
    all[JSON.stringify([group])] = [
      isNone ? "" : result,
      counted.length,
      of.length - counted.length,
    ];
  }
  return all;
}

/** `thousandths / 1000 / count`, to 18 places, by the digits. */
function decimal(thousandths: number, count: bigint): string {
  if (count === 0n || !Number.isFinite(thousandths)) {
    return "";
  }
  const negative = thousandths < 0;
  const scaled = BigInt(Math.abs(thousandths)) * 10n ** 15n;
  let quotient = scaled / count;
  const twice = (scaled % count) * 2n;
  if (twice > count || (twice === count && quotient % 2n === 1n)) {
    quotient += 1n;
  }
  const digits = quotient.toString().padStart(19, "0");
  const text = `${digits.slice(0, -18)}.${digits.slice(-18)}`.replace(/\.?0*$/, "");
  return negative && quotient !== 0n ? `-${text}` : text;
}
