import { expect, test } from "vitest";
import { chain, emptyChain, lineOf, type RatingParts, rate } from "./rate.ts";

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
  const rated = rate(price, use);

  expect(rated.chargedNanos).toBe(use.charged);
  expect(rated.tiers.reduce((sum, { amountNanos }) => sum + amountNanos, 0n)).toBe(use.charged);
  expect(rated.model).toBe(use.status >= 500 ? "free" : "per_call");
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
