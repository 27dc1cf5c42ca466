import { expect, test } from "vitest";
import { parseStroops, shareFloor, stroopsFloor, stroopsText, usdcText } from "./money.ts";

test("a share is rounded down, and never more than the whole", () => {
  expect(shareFloor(999n, 1000)).toBe(99n);
  expect(shareFloor(1n, 9999)).toBe(0n);
  expect(shareFloor(12_345n, 10_000)).toBe(12_345n);
  expect(shareFloor(9_223_372_036_854_775_807n, 10_000)).toBe(9_223_372_036_854_775_807n);
});

test("stroops are rounded down", () => {
  expect(stroopsFloor(199n)).toBe(1n);
  expect(stroopsFloor(99n)).toBe(0n);
});

test("an amount of stroops survives being written and read", () => {
  for (const stroops of [0n, 1n, 9_999_999n, 10_000_000n, 922_337_203_685_477_580n]) {
    expect(parseStroops(stroopsText(stroops))).toBe(stroops);
  }
  expect(stroopsText(1n)).toBe("0.0000001");
});

test.for(["", "-1", "1.", ".5", "1.00000000", "1e3", "1,0", " 1", "1234567890123", "NaN"])(
  '"%s" is not taken for an amount',
  (text) => {
    expect(() => parseStroops(text)).toThrow("Cannot read amount");
  },
);

test.for([
  [0n, "0"],
  [1n, "0.000000001"],
  [1_250_000_000n, "1.25"],
  [-1_250_000_000n, "-1.25"],
  [-1n, "-0.000000001"],
] as const)("%s nanos are shown as %s USDC", ([nanos, text]) => {
  expect(usdcText(nanos)).toBe(text);
});
