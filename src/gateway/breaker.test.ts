import { expect, test } from "vitest";
import { createBreaker } from "./breaker.ts";

function startBreaker() {
  const clock = { ms: 1_000 };
  const breaker = createBreaker({ nowMs: () => clock.ms });
  const fail = (times: number) => {
    for (let time = 0; time < times; time++) {
      breaker.failed();
    }
  };
  return { clock, breaker, fail };
}

test("a few failures open nothing", () => {
  const { breaker, fail } = startBreaker();

  fail(9);

  expect(breaker.isOpen).toBe(false);
  expect(breaker.retryAfterMs).toBe(0);
});

test("ten failures open it, for five seconds", () => {
  const { clock, breaker, fail } = startBreaker();

  fail(10);

  expect(breaker.isOpen).toBe(true);
  expect(breaker.retryAfterMs).toBe(5_000);
  clock.ms += 4_999;
  expect(breaker.isOpen).toBe(true);
  clock.ms += 1;
  expect(breaker.isOpen).toBe(false);
});

test("failures of half of the calls open nothing", () => {
  const { breaker, fail } = startBreaker();

  for (let time = 0; time < 50; time++) {
    breaker.succeeded();
    fail(1);
  }

  expect(breaker.isOpen).toBe(false);
});

test("one probe goes at a time, and closes it when it succeeds", () => {
  const { clock, breaker, fail } = startBreaker();
  fail(10);
  clock.ms += 5_000;

  breaker.begun();

  expect(breaker.isOpen).toBe(true);
  breaker.succeeded();
  expect(breaker.isOpen).toBe(false);
  fail(9);
  expect(breaker.isOpen).toBe(false);
});

test("a probe that fails opens it anew", () => {
  const { clock, breaker, fail } = startBreaker();
  fail(10);
  clock.ms += 5_000;
  breaker.begun();
  clock.ms += 1_000;

  breaker.failed();

  expect(breaker.retryAfterMs).toBe(5_000);
});

test("a probe that is never heard of keeps nobody out for ever", () => {
  const { clock, breaker, fail } = startBreaker();
  fail(10);
  clock.ms += 5_000;
  breaker.begun();

  clock.ms += 5_000;

  expect(breaker.isOpen).toBe(false);
});

test("a call of before that ends well does not close it", () => {
  const { breaker, fail } = startBreaker();
  fail(10);

  breaker.succeeded();

  expect(breaker.isOpen).toBe(true);
});

test("failures before a silence do not count after it", () => {
  const { clock, breaker, fail } = startBreaker();
  fail(9);
  clock.ms += 10_001;

  fail(9);

  expect(breaker.isOpen).toBe(false);
});
