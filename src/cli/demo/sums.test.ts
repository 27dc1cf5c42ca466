import { expect, test } from "vitest";
import { compareSums, type DemoSums, feeOf, sumLines } from "./sums.ts";

const right: DemoSums = {
  pricedNanos: 1_005n,
  debitsNanos: 1_005n,
  feeBasisPoints: 1_000,
  creditsNanos: 905n,
  paidNanos: 800n,
  chainNanos: 800n,
  inFlightNanos: 100n,
  payableNanos: 5n,
};

test("right sums make every equation hold, with the fee rounded down", () => {
  expect(feeOf(right)).toBe(100n);
  expect(compareSums(right).filter(({ ok }) => !ok)).toEqual([]);
});

test.for([
  { sum: "pricedNanos", broken: ["charged calls"] },
  { sum: "debitsNanos", broken: ["charged calls", "consumer debits"] },
  { sum: "creditsNanos", broken: ["consumer debits", "developer credits"] },
  { sum: "paidNanos", broken: ["paid by the earnings"] },
  { sum: "chainNanos", broken: ["developer credits", "paid by the earnings"] },
  { sum: "inFlightNanos", broken: ["developer credits"] },
  { sum: "payableNanos", broken: ["developer credits"] },
] as const)("$sum that is one unit off breaks an equation", ({ sum, broken }) => {
  for (const off of [-1n, 1n]) {
    const wrong = compareSums({ ...right, [sum]: right[sum] + off }).filter(({ ok }) => !ok);

    expect(wrong.map(({ name }) => name)).toEqual(
      broken.map((start) => expect.stringMatching(new RegExp(`^${start}`))),
    );
  }
});

test("another fee than the known one breaks the equation of the debits", () => {
  const wrong = compareSums({ ...right, feeBasisPoints: 1_010 }).filter(({ ok }) => !ok);

  expect(wrong).toMatchObject([{ leftNanos: 1_005n, rightNanos: 1_006n }]);
});

test("the table shows exact sums, aligned", () => {
  expect(sumLines(right)).toEqual([
    "consumer debits                    1005",
    "developer credits                   905",
    "platform fee (10 %, rounded down)   100",
    "paid on the chain                   800",
    "in flight                           100",
    "payable                               5",
  ]);
});
