import { expect, test } from "vitest";
import { createLimiter, type Limit } from "./limiter.ts";

const rate = { intervalMs: 1000, burst: 3 };
const at = (ms: number) => new Date(1_000_000 + ms);
const limit = (id: string, more: Partial<Limit> = {}): Limit => ({ id, rate, ...more });

test("a burst passes, the next call waits one interval", () => {
  const limiter = createLimiter();
  const taken = [0, 0, 0, 0, 999, 1000, 1001].map((ms) => limiter.take([limit("a")], at(ms)));

  expect(taken.map(({ allowed }) => allowed)).toEqual([
    true,
    true,
    true,
    false,
    false,
    true,
    false,
  ]);
});

test("the verdict says what is left and when to come back", () => {
  const limiter = createLimiter();

  expect(limiter.take([limit("a")], at(0))).toEqual({
    allowed: true,
    limit: 3,
    remaining: 2,
    resetMs: 1000,
    retryAfterMs: 0,
  });
  limiter.take([limit("a")], at(0));
  limiter.take([limit("a")], at(0));
  expect(limiter.take([limit("a")], at(250))).toEqual({
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
    limiter.take([limit("a")], at(0));
  }

  expect(limiter.take([limit("b")], at(0)).allowed).toBe(true);
  expect(limiter.take([limit("a")], at(1000)).allowed).toBe(true);
});

test("over an hour no more pass than the rate and one burst", () => {
  const limiter = createLimiter();
  let passed = 0;
  for (let ms = 0; ms < 3_600_000; ms += 100) {
    passed += limiter.take([limit("a")], at(ms)).allowed ? 1 : 0;
  }

  expect(passed).toBe(3_600 + 2);
});

test("100 a minute are 100 at once, and 100 in each minute after", () => {
  const limiter = createLimiter();
  const perMinute = { id: "a", rate: { intervalMs: 60_000 / 100, burst: 100 } };
  const passed = [0, 60_000, 120_000].map((ms) => {
    const taken = Array.from({ length: 150 }, () => limiter.take([perMinute], at(ms)));
    return taken.filter(({ allowed }) => allowed).length;
  });

  expect(passed).toEqual([100, 100, 100]);
});

test("a clock that is set back locks nobody out for longer than an interval", () => {
  const limiter = createLimiter();
  limiter.take([limit("a")], at(10 * 3_600_000));

  expect(limiter.take([limit("a")], at(0)).retryAfterMs).toBe(1000);
});

test("a rate that is lowered counts for its own window at most", () => {
  const limiter = createLimiter();
  const slow = { intervalMs: 3_600_000, burst: 24 };
  limiter.take([{ id: "a", rate: slow, cost: 24 }], at(0));

  expect(limiter.take([limit("a")], at(0)).retryAfterMs).toBe(1000);
});

test("a cost counts for so many calls; none passes that is above the burst", () => {
  const limiter = createLimiter();

  expect(limiter.take([limit("a", { cost: 4 })], at(0)).allowed).toBe(false);
  expect(limiter.take([limit("a", { cost: 1e15 })], at(0)).allowed).toBe(false);
  expect(limiter.take([limit("a", { cost: 0 })], at(0))).toMatchObject({ remaining: 3 });
  expect(limiter.take([limit("a", { cost: 2 })], at(0))).toMatchObject({ remaining: 1 });
  expect(limiter.take([limit("a", { cost: 2 })], at(0))).toMatchObject({
    allowed: false,
    remaining: 1,
    retryAfterMs: 1000,
  });
  expect(limiter.take([limit("a", { cost: 0 })], at(0)).allowed).toBe(true);
});

test("several limits count all or nothing, and the tightest one speaks", () => {
  const limiter = createLimiter();
  const narrow = limit("narrow", { rate: { intervalMs: 5000, burst: 1 } });
  const wide = limit("wide");

  expect(limiter.take([wide, narrow], at(0))).toMatchObject({ limit: 1, remaining: 0 });
  expect(limiter.take([wide, narrow], at(0))).toMatchObject({
    allowed: false,
    limit: 1,
    retryAfterMs: 5000,
  });
  expect(limiter.take([wide], at(0))).toMatchObject({ allowed: true, limit: 3, remaining: 1 });
  limiter.take([wide], at(0));
  expect(limiter.take([narrow, wide], at(0)).retryAfterMs, "the longer wait").toBe(5000);
  expect(limiter.take([wide, narrow], at(4500)), "only the narrow one waits").toMatchObject({
    allowed: false,
    limit: 1,
    retryAfterMs: 500,
  });
});

test("the oldest limits are forgotten, so that strangers cannot fill the memory", () => {
  const limiter = createLimiter({ entriesMax: 2 });
  for (const id of ["a", "b", "a", "c"]) {
    limiter.take([limit(id, { cost: 1 })], at(0));
  }

  expect(limiter.take([limit("a", { cost: 0 })], at(0)).remaining, "kept").toBe(1);
  expect(limiter.take([limit("c", { cost: 0 })], at(0)).remaining, "kept").toBe(2);
});

test("addresses push out no limit of a known caller", () => {
  const limiter = createLimiter({ entriesMax: 2 });
  limiter.take([limit("key_day:a", { cost: 3 })], at(0));

  for (const id of ["b", "c", "d", "e"]) {
    limiter.take([limit(id, { isOfStranger: true })], at(0));
  }

  expect(limiter.take([limit("key_day:a")], at(0)).allowed).toBe(false);
});

test.for([
  { name: "no limits", limits: [] },
  { name: "too many", limits: Array.from({ length: 9 }, (_, index) => limit(`${index}`)) },
  { name: "one twice", limits: [limit("a"), limit("a")] },
  { name: "half a call", limits: [limit("a", { cost: 0.5 })] },
  { name: "less than nothing", limits: [limit("a", { cost: -1 })] },
  { name: "no burst", limits: [limit("a", { rate: { intervalMs: 1, burst: 0 } })] },
  { name: "no interval", limits: [limit("a", { rate: { intervalMs: 0, burst: 1 } })] },
  { name: "years", limits: [limit("a", { rate: { intervalMs: 86_400_000, burst: 401 } })] },
])("$name is a mistake of ours", ({ limits }) => {
  expect(() => createLimiter().take(limits, at(0))).toThrow(/^Cannot limit: /);
});
