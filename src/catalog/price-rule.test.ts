import { create, type MessageInitShape } from "@bufbuild/protobuf";
import fc from "fast-check";
import { expect, test } from "vitest";
import {
  type FreeOn,
  PriceRuleSchema,
  TierMode,
  TierSpan,
} from "../../gen/callora/catalog/v1/price_pb.ts";
import {
  chargeOf,
  checkRule,
  freeBits,
  maxCharge,
  outcomes,
  type PriceRule,
  parseRule,
  RuleError,
  ruleOf,
  ruleText,
  type Use,
} from "./price-rule.ts";

const source = fc.oneof(
  fc.constant(null),
  fc.record({ header: fc.constantFrom("x-units", "a"), missing: fc.bigInt(0n, 50n) }),
  fc.record({ path: fc.constantFrom("$.n", "$['é\"']"), missing: fc.bigInt(0n, 50n) }),
);

const tiers = fc
  .tuple(
    fc.uniqueArray(fc.bigInt(1n, 60n), { maxLength: 4 }),
    fc.array(fc.bigInt(0n, 30n), { minLength: 5, maxLength: 5 }),
    fc.boolean(),
  )
  .map(([ends, nanos, isEmpty]) => {
    const sorted = ends.sort((a, b) => (a < b ? -1 : 1));
    const lasts = [...sorted, null];
    return isEmpty ? [] : lasts.map((lastUnit, index) => ({ lastUnit, nanos: nanos[index] ?? 0n }));
  });

const anyRule: fc.Arbitrary<PriceRule> = fc.record({
  callNanos: fc.bigInt(0n, 100n),
  tiers,
  mode: fc.constantFrom("graduated", "volume"),
  span: fc.constantFrom("call", "month"),
  per: fc.bigInt(1n, 12n),
  unitsMax: fc.bigInt(0n, 80n),
  source,
  free: fc.integer({ min: 0, max: 15 }),
});

const anyUse: fc.Arbitrary<Use> = fc.record({
  units: fc.bigInt(0n, 120n),
  unitsBefore: fc.bigInt(0n, 90n),
  status: fc.constantFrom(200, 304, 400, 499, 500, 504),
  outcome: fc.constantFrom(...outcomes),
});

const runs = { numRuns: 2_000 };

/** What one unit costs for `per` of them, by its number. */
function nanosAt(rule: PriceRule, unit: bigint): bigint {
  return rule.tiers.find(({ lastUnit }) => lastUnit === null || unit <= lastUnit)?.nanos ?? 0n;
}

/** The definition of a price, unit by unit. */
function slowCharge(rule: PriceRule, { units, unitsBefore, outcome }: Use): bigint {
  const counted = outcome === "no_units" ? 0n : units < rule.unitsMax ? units : rule.unitsMax;
  const before = rule.span === "month" ? unitsBefore : 0n;
  let sum = 0n;
  for (let unit = before + 1n; unit <= before + counted; unit++) {
    sum += nanosAt(rule, rule.mode === "volume" ? before + counted : unit);
  }
  const whole = sum / rule.per;
  return rule.callNanos + (sum % rule.per === 0n ? whole : whole + 1n);
}

test("a charge is the sum over its units, rounded up once; its parts add up to it", () => {
  fc.assert(
    fc.property(anyRule, anyUse, (rule, use) => {
      const { nanos, isFree, tiers: used } = chargeOf(rule, use);
      if (isFree) {
        expect([nanos, used]).toEqual([0n, []]);
        return;
      }
      expect(nanos).toBe(slowCharge(rule, use));
      const parts = used.reduce((sum, { amountNanos }) => sum + amountNanos, rule.callNanos);
      expect(parts).toBe(nanos);
      expect(used.every(({ units, amountNanos }) => units > 0n && amountNanos >= 0n)).toBe(true);
      for (const { fromUnit, unitNanos } of rule.mode === "graduated" ? used : []) {
        expect(nanosAt(rule, fromUnit)).toBe(unitNanos);
      }
    }),
    runs,
  );
});

test("no use costs more than is set aside for it", () => {
  fc.assert(
    fc.property(anyRule, anyUse, (rule, use) => {
      expect(chargeOf(rule, use).nanos).toBeLessThanOrEqual(maxCharge(rule, use.unitsBefore));
    }),
    runs,
  );
});

test("nor more than is set aside for whatever others use before it", () => {
  fc.assert(
    fc.property(anyRule, anyUse, fc.bigInt(0n, 40n), (rule, use, others) => {
      const { unitsBefore } = use;
      const before = unitsBefore - (others < unitsBefore ? others : unitsBefore);
      const { nanos } = chargeOf(rule, use);
      expect(nanos).toBeLessThanOrEqual(maxCharge(rule, before, unitsBefore));
      expect(nanos).toBeLessThanOrEqual(maxCharge(rule, unitsBefore, unitsBefore + others));
      expect(nanos).toBeLessThanOrEqual(maxCharge(rule, before, unitsBefore + others));
    }),
    runs,
  );
});

test("what is set aside is what some use costs", () => {
  fc.assert(
    fc.property(anyRule, fc.bigInt(0n, 90n), (rule, unitsBefore) => {
      const uses = Array.from({ length: 81 }, (_, units) => BigInt(units));
      const charges = uses.map(
        (units) => chargeOf(rule, { units, unitsBefore, status: 200, outcome: "whole" }).nanos,
      );
      expect(charges).toContain(maxCharge(rule, unitsBefore));
    }),
    { numRuns: 500 },
  );
});

test("a rule is read back from its text, which is the only one of it", () => {
  fc.assert(
    fc.property(anyRule, anyRule, (rule, other) => {
      const text = ruleText(rule);
      expect(parseRule(text)).toEqual(rule);
      const isEqual = ruleText(other) === text;
      expect(isEqual).toBe(JSON.stringify(toTexts(other)) === JSON.stringify(toTexts(rule)));
    }),
    runs,
  );
});

function toTexts(value: object): unknown {
  return JSON.parse(JSON.stringify(value, (_, one) => (typeof one === "bigint" ? `${one}` : one)));
}

test.for([
  "",
  "{}",
  "[]",
  "null",
  // Ends that do not rise, no open end, an end after it, by nothing, a space, a leading zero.
  '["1",[["5","1"],["5","1"],[null,"1"]],"graduated","call","1","1",null,5]',
  '["1",[["5","1"]],"graduated","call","1","1",null,5]',
  '["1",[[null,"1"],["5","1"]],"graduated","call","1","1",null,5]',
  '["1",[[null,"1"]],"graduated","call","0","1",null,5]',
  '["1", [],"graduated","call","1","1",null,5]',
  '["01",[],"graduated","call","1","1",null,5]',
  '["-1",[],"graduated","call","1","1",null,5]',
  '["1",[],"graduated","call","1","1",null,16]',
  // A call could cost more than 1,000 USDC.
  '["1000000000001",[],"graduated","call","1","1",null,5]',
  '["1",[["5","0"],[null,"1000000000000"]],"graduated","month","1","1",["header","n","1"],5]',
])("%s is no rule", (text) => {
  expect(() => parseRule(text)).toThrow(RuleError);
});

test.for([
  { outcome: "failed", status: 200, free: [] },
  { outcome: "timed_out", status: 504, free: ["timeout"] },
  { outcome: "consumer_left", status: 500, free: ["consumerLeft"] },
  { outcome: "whole", status: 500, free: ["serverError"] },
  { outcome: "whole", status: 404, free: ["clientError"] },
  { outcome: "no_units", status: 404, free: ["clientError"] },
  { outcome: "whole", status: 399, free: null },
] as const)("$outcome with status $status is free by $free alone", ({ outcome, status, free }) => {
  const rule = ruleOf(create(PriceRuleSchema, { callNanos: 7n }));
  const bits = Object.entries(freeBits).map(([name, bit]) => ({ name, bit }));
  const use = { units: 1n, unitsBefore: 0n, status, outcome };

  for (const { name, bit } of bits) {
    const isFree = outcome === "failed" || (free?.some((one) => one === name) ?? false);
    expect(chargeOf({ ...rule, free: bit }, use).isFree, name).toBe(isFree);
    expect(chargeOf({ ...rule, free: 15 - bit }, use).isFree, name).toBe(
      outcome === "failed" || (free !== null && !isFree),
    );
  }
});

test("what a message leaves out", () => {
  const rule = ruleOf(create(PriceRuleSchema, { callNanos: 5n }));

  expect(rule).toEqual({
    callNanos: 5n,
    tiers: [],
    mode: "graduated",
    span: "call",
    per: 1n,
    unitsMax: 1n,
    source: null,
    free: freeBits.serverError | freeBits.timeout,
  });
  const all = [1, 2, 3, 4] as FreeOn[];
  expect(ruleOf(create(PriceRuleSchema, { freeOn: all })).free).toBe(15);
});

const tokens: MessageInitShape<typeof PriceRuleSchema> = {
  units: { from: { case: "jsonPath", value: "$.usage.total_tokens" } },
  tiers: [{ lastUnit: 1_000n, nanos: 30n }, { nanos: 20n }],
  unitsPerPrice: 1_000_000n,
  unitsMax: 100_000n,
};

test("the first thousand calls of a month may be free", () => {
  const message = create(PriceRuleSchema, {
    tiers: [{ lastUnit: 1_000n }, { nanos: 50n }],
    tierSpan: TierSpan.MONTH,
  });
  expect(checkRule(message, "rule")).toEqual([]);
  const rule = ruleOf(message);
  const charge = (unitsBefore: bigint) =>
    chargeOf(rule, { units: 1n, unitsBefore, status: 200, outcome: "whole" }).nanos;

  expect([charge(0n), charge(999n), charge(1_000n)]).toEqual([0n, 0n, 50n]);
});

test.for<[string, MessageInitShape<typeof PriceRuleSchema>, string[]]>([
  ["tokens", tokens, []],
  ["volume", { ...tokens, tierMode: TierMode.VOLUME }, []],
  ["no tiers", { ...tokens, tiers: [] }, ["rule.tiers"]],
  ["no open tier", { ...tokens, tiers: [{ lastUnit: 5n }] }, ["rule.tiers"]],
  ["two open tiers", { ...tokens, tiers: [{ nanos: 1n }, { nanos: 2n }] }, ["rule.tiers"]],
  [
    "tiers that do not rise",
    { ...tokens, tiers: [{ lastUnit: 5n }, { lastUnit: 5n }, {}] },
    ["rule.tiers"],
  ],
  ["no most units", { ...tokens, unitsMax: 0n }, ["rule.units_max"]],
  [
    "a path that is none",
    { ...tokens, units: { from: { case: "jsonPath", value: "usage" } } },
    ["rule.units.json_path"],
  ],
  ["most units of nothing", { callNanos: 1n, unitsMax: 2n }, ["rule.units_max"]],
  [
    "a call that is too dear",
    { ...tokens, unitsPerPrice: 1n, unitsMax: 1_000_000n, tiers: [{ nanos: 1_000_001n }] },
    ["rule.units_max"],
  ],
  [
    "a dear tier that a call alone does not reach",
    { ...tokens, unitsPerPrice: 1n, tiers: [{ lastUnit: 200_000n }, { nanos: 1_000_000_000n }] },
    [],
  ],
  [
    "a dear tier that a month reaches",
    {
      ...tokens,
      tierSpan: TierSpan.MONTH,
      unitsPerPrice: 1n,
      tiers: [{ lastUnit: 200_000n }, { nanos: 1_000_000_000n }],
    },
    ["rule.units_max"],
  ],
])("a rule is checked: %s", ([, message, fields]) => {
  const violations = checkRule(create(PriceRuleSchema, message), "rule");

  expect(violations.map(({ field }) => field)).toEqual(fields);
});
