import { expect, test } from "vitest";
import { chargeOf, perMinute, perSecond } from "./gcra.ts";

test("an interval is the exact one, rounded up to a microsecond, whatever floats make of it", () => {
  const wrong: number[] = [];
  for (let count = 1; count <= 200_000; count++) {
    const minute = chargeOf({ id: "x", rate: perMinute(count, 1) }).intervalUs;
    const second = chargeOf({ id: "x", rate: perSecond(count, 1) }).intervalUs;
    const exact = (whole: bigint) => Number((whole + BigInt(count) - 1n) / BigInt(count));
    if (minute !== exact(60_000_000n) || second !== exact(1_000_000n)) {
      wrong.push(count);
    }
  }

  expect(wrong).toEqual([]);
});
