import { expect, test } from "vitest";
import { usage } from "../../test/support/books.ts";
import { freeBits, type Outcome, ruleText } from "../catalog/price-rule.ts";
import { chain, chargeOf, emptyChain, lineOf, type RatingParts, rate, rateEntry } from "./rate.ts";

const price = {
  apiId: `api_${"0".repeat(26)}`,
  developerId: `acc_${"0".repeat(26)}`,
  version: 3,
  unitNanos: 1_500n,
  feeBasisPoints: 1_000,
  rule: "",
};

test.for([
  { units: 1n, status: 200, charged: 1_500n },
  { units: 7n, status: 499, charged: 10_500n },
  { units: 7n, status: 500, charged: 0n },
  { units: 1_000_000_000_000n, status: 0, charged: 1_500_000_000_000_000n },
])("$units units with status $status cost $charged, and the tiers add up", (use) => {
  const rated = rate(price, { ...use, outcome: "whole", unitsBefore: 0n });

  expect(rated.chargedNanos).toBe(use.charged);
  expect(rated.tiers.reduce((sum, { amountNanos }) => sum + amountNanos, 0n)).toBe(use.charged);
  expect(rated.model).toBe(use.status >= 500 ? "free" : "per_call");
});

test.for<{ outcome: Outcome; charged: bigint }>([
  { outcome: "failed", charged: 0n },
  { outcome: "timed_out", charged: 0n },
  { outcome: "consumer_left", charged: 3_000n },
  { outcome: "no_units", charged: 3_000n },
])("without a rule, a call that ended as $outcome costs $charged", ({ outcome, charged }) => {
  const use = { units: 2n, status: 200, outcome, unitsBefore: 0n };

  expect(rate(price, use).chargedNanos).toBe(charged);
});

const rule = ruleText({
  callNanos: 7n,
  tiers: [
    { lastUnit: 10n, nanos: 3n },
    { lastUnit: null, nanos: 2n },
  ],
  mode: "graduated",
  span: "month",
  per: 1n,
  unitsMax: 100n,
  source: { header: "x-units", missing: 0n },
  free: freeBits.serverError,
});

test.for<{ units: bigint; before: bigint; status: number; outcome: Outcome; charged: bigint }>([
  { units: 4n, before: 8n, status: 200, outcome: "whole", charged: 7n + 6n + 4n },
  { units: 400n, before: 10n, status: 200, outcome: "whole", charged: 7n + 200n },
  { units: 0n, before: 0n, status: 200, outcome: "no_units", charged: 7n },
  { units: 4n, before: 0n, status: 500, outcome: "whole", charged: 0n },
  { units: 4n, before: 0n, status: 504, outcome: "timed_out", charged: 19n },
])("by a rule: $units units after $before, $status, $outcome", (use) => {
  const { units, before: unitsBefore, status, outcome } = use;
  const [account, developer] = [`acc_${"0".repeat(26)}`, `acc_${"1".repeat(26)}`];
  const entry = usage({ account, developer, id: "1" });
  const ruled = { ...entry, price: { ...price, rule }, units, unitsBefore, status, outcome };

  const rated = rateEntry(ruled);

  expect(rated.chargedNanos).toBe(use.charged);
  expect(chargeOf(ruled)).toBe(use.charged);
  expect(rated.tiers.reduce((sum, { amountNanos }) => sum + amountNanos, 0n)).toBe(use.charged);
  expect(rated.model).toBe(use.charged === 0n ? "free" : "graduated");
});

test("a line that says nothing of rules is that of earlier versions", () => {
  expect(lineOf(parts)).toBe('["acc_1","a-b","c","live",1,"1","5","1","2026-11-01"]');
});

const parts: RatingParts = {
  account: "acc_1",
  source: "a-b",
  id: "c",
  mode: "live",
  version: 1,
  units: 1n,
  chargedNanos: 5n,
  feeNanos: 1n,
  bookedMonth: "2026-11-01",
  outcome: "whole",
  unitsBefore: 0n,
};

test("any other part gives another line, and so do parts that run together", () => {
  const others: Partial<RatingParts>[] = [
    { account: "acc_2" },
    { source: "a", id: "b-c" },
    { source: 'a","b', id: "c" },
    { mode: "test" },
    { version: 2 },
    { units: 2n },
    { chargedNanos: 6n },
    { feeNanos: 2n },
    { bookedMonth: "2026-12-01" },
    { outcome: "no_units" },
    { unitsBefore: 1n },
  ];

  const lines = [parts, ...others.map((other) => ({ ...parts, ...other }))].map(lineOf);

  expect(new Set(lines).size).toBe(others.length + 1);
});

test("a chain depends on every line and their order, not on the batches", () => {
  const lines = ["one", "two", "three"];
  const whole = chain(emptyChain, lines);

  expect(chain(chain(emptyChain, ["one"]), ["two", "three"])).toEqual(whole);
  expect(chain(emptyChain, ["two", "one", "three"])).not.toEqual(whole);
  expect(chain(emptyChain, ["one", "twothree"])).not.toEqual(whole);
  expect(whole).toHaveLength(32);
});
