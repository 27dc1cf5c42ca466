import { expect, test } from "vitest";
import { createLimiter } from "./limiter.ts";

const rate = { intervalMs: 1000, burst: 3 };
const at = (ms: number) => new Date(1_000_000 + ms);

test("a burst passes, the next call waits one interval", () => {
  const limiter = createLimiter();
  const taken = [0, 0, 0, 0, 999, 1000, 1001].map((ms) => limiter.take("a", rate, at(ms)).allowed);

  expect(taken).toEqual([true, true, true, false, false, true, false]);
});

test("the verdict says what is left and when to come back", () => {
  const limiter = createLimiter();

  expect(limiter.take("a", rate, at(0))).toEqual({
    allowed: true,
    limit: 3,
    remaining: 2,
    resetMs: 1000,
    retryAfterMs: 0,
  });
  limiter.take("a", rate, at(0));
  limiter.take("a", rate, at(0));
  expect(limiter.take("a", rate, at(250))).toEqual({
    allowed: false,
    limit: 3,
    remaining: 0,
    resetMs: 2750,
    retryAfterMs: 750,
  });
});

test("refused calls cost nothing, and callers are counted apart", () => {
  const limiter = createLimiter();
  for (let call = 0; call < 100; call++) {
    limiter.take("a", rate, at(0));
  }

  expect(limiter.take("b", rate, at(0)).allowed).toBe(true);
  expect(limiter.take("a", rate, at(1000)).allowed).toBe(true);
});

test("over an hour no more pass than the rate and one burst", () => {
  const limiter = createLimiter();
  let passed = 0;
  for (let ms = 0; ms < 3_600_000; ms += 100) {
    passed += limiter.take("a", rate, at(ms)).allowed ? 1 : 0;
  }

  expect(passed).toBe(3_600 + 2);
});

test("a clock that is set back does not lock a caller out for good", () => {
  const limiter = createLimiter();
  limiter.take("a", rate, at(10_000));

  expect(limiter.take("a", rate, at(0)).retryAfterMs).toBeLessThanOrEqual(11_000);
});
