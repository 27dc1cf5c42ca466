import fc from "fast-check";
import { test as base, describe, expect } from "vitest";
import { isWithoutRedis, startRedis, type TestRedis } from "../../test/support/redis.ts";
import { backAfter, chargeOf, type Limit } from "../rpc/gcra.ts";
import { createRedisLimiter } from "./redis-limiter.ts";
import { createRedisLink, type Send } from "./redis-link.ts";

const hourly = (burst: number) => ({ intervalMs: 3_600_000, burst });

const test = base.extend<{ $file: { redis: TestRedis; send: Send } }>({
  redis: [
    // biome-ignore lint/correctness/noEmptyPattern: vitest reads the pattern
    async ({}, use) => {
      await using redis = await startRedis();
      await use(redis);
    },
    { scope: "file" },
  ],
  send: [
    async ({ redis: { url } }, use) => {
      const options = { probe: async () => {}, onChange: () => {}, deadlineMs: 10_000 };
      const link = createRedisLink({ url, ...options });
      await link.start();
      await use(link.send);
      await link.close();
    },
    { scope: "file" },
  ],
});

describe.skipIf(isWithoutRedis)("with Redis", () => {
  const rates = [
    { intervalMs: 1, burst: 3 },
    { intervalMs: 60_000 / 7, burst: 7 },
    { intervalMs: 1000 / 3, burst: 2 },
    { intervalMs: 0.001, burst: 5 },
    { intervalMs: 86_400_000, burst: 400 },
    { intervalMs: 0.7, burst: 1_000_000 },
  ];
  const limit = fc.record({
    id: fc.constantFrom("1:a", "2:a", "1:b", "2:b"),
    rate: fc.constantFrom(...rates),
    cost: fc.oneof(fc.nat({ max: 9 }), fc.constantFrom(400, 1_000_000, Number.MAX_SAFE_INTEGER)),
  });
  const calls = fc.array(
    fc.uniqueArray(limit, { minLength: 1, maxLength: 4, selector: ({ id }) => id }),
    { minLength: 1, maxLength: 30 },
  );

  test("Redis and we agree on every call, to the microsecond", async ({ send }) => {
    let run = 0;
    const property = fc.asyncProperty(calls, async (sequence) => {
      let reply: number[] = [];
      const limiter = createRedisLimiter({
        send: async (args) => {
          reply = (await send(args)) as number[];
          return reply;
        },
        prefix: `agree-${run++}:`,
      });
      const expected = new Map<string, number>();
      for (const limits of sequence) {
        // It throws if the two disagree on whether the call is allowed.
        const { allowed, remaining } = await limiter.take(limits);

        const [nowUs = 0, , ...storedUs] = reply;
        for (const [index, { id }] of limits.entries()) {
          const known = expected.get(id) ?? 0;
          // What is past, or gone, is all the same: the whole budget is there.
          expect(Math.max(storedUs[index] ?? 0, nowUs)).toBe(Math.max(known, nowUs));
        }
        if (allowed) {
          for (const [index, one] of limits.entries()) {
            expected.set(one.id, backAfter(chargeOf(one), storedUs[index] ?? 0, nowUs));
          }
        }
        expect(remaining).toBeGreaterThanOrEqual(0);
      }
    });

    await fc.assert(property, { numRuns: 300 });
  });

  test("two limiters on one Redis let no more calls pass than one would", async ({
    redis,
    send,
  }) => {
    const { url } = redis;
    const options = { probe: async () => {}, onChange: () => {}, deadlineMs: 10_000 };
    const second = createRedisLink({ url, ...options });
    await second.start();
    const limiters = [send, second.send].map((each) => createRedisLimiter({ send: each }));
    const limits: Limit[] = [{ id: "1:shared", rate: hourly(500) }];

    const takes = Array.from({ length: 2_000 }, (_, n) => limiters[n % 2]?.take(limits));
    const verdicts = await Promise.all(takes);

    await second.close();
    expect(verdicts.filter((verdict) => verdict?.allowed)).toHaveLength(500);
    const remaining = new Set(verdicts.filter((v) => v?.allowed).map((v) => v?.remaining));
    expect(remaining.size, "each place is given once").toBe(500);
  });

  test("several limits count all or nothing, however many calls come at once", async ({ send }) => {
    const limiter = createRedisLimiter({ send });
    const wide: Limit = { id: "1:both", rate: hourly(1_000), cost: 3 };
    const narrow: Limit = { id: "2:both", rate: hourly(100) };

    const verdicts = await Promise.all(
      Array.from({ length: 600 }, () => limiter.take([wide, narrow])),
    );

    expect(verdicts.filter(({ allowed }) => allowed)).toHaveLength(100);
    expect(await limiter.take([{ ...wide, cost: 0 }])).toMatchObject({ remaining: 700 });
    expect(await limiter.take([{ ...narrow, cost: 0 }])).toMatchObject({ remaining: 0 });
  });

  test("a script that Redis has forgotten is sent again, and the call counts once", async ({
    send,
  }) => {
    const limiter = createRedisLimiter({ send });
    const limits: Limit[] = [{ id: "1:flushed", rate: hourly(10) }];
    await limiter.take(limits);

    await send(["SCRIPT", "FLUSH"]);

    expect(await limiter.take(limits)).toMatchObject({ allowed: true, remaining: 8 });
    expect(await limiter.take(limits)).toMatchObject({ allowed: true, remaining: 7 });
  });

  test("nothing stays for ever, and all limits of a caller lie together", async ({ send }) => {
    const limiter = createRedisLimiter({ send, prefix: "stays:" });
    const rate = { intervalMs: 60_000, burst: 5 };
    await limiter.take([
      { id: "1:key_a", rate, cost: 2 },
      { id: "minute:key_a", rate },
      { id: "3:2001:db8:0:1::/64", rate },
      { id: "4:nothing", rate, cost: 0 },
    ]);

    const keys = ((await send(["KEYS", "stays:*"])) as string[]).sort();
    const [first, ...lives] = await Promise.all(
      keys.map(async (key) => Number(await send(["PTTL", key]))),
    );

    expect(keys).toEqual([
      "stays:{2001:db8:0:1::/64}:3",
      "stays:{key_a}:1",
      "stays:{key_a}:minute",
    ]);
    expect(first).toBeGreaterThan(0);
    expect(first).toBeLessThanOrEqual(60_001);
    expect(Math.max(...lives)).toBeGreaterThan(60_001);
    expect(Math.max(...lives)).toBeLessThanOrEqual(120_001);
  });
});
