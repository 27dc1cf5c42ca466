import { once } from "node:events";
import { type AddressInfo, createServer, type Socket } from "node:net";
import { setImmediate as turned } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { isWithoutRedis, startRedis, type TestRedis } from "../../test/support/redis.ts";
import type { Limit, Verdict } from "../rpc/limiter.ts";
import { type AwayDecision, type AwayMode, createSharedLimiter } from "./shared-limiter.ts";

const rate = { intervalMs: 3_600_000, burst: 10 };
const person: Limit = { id: "2:usr_a", rate };
const key: Limit = { id: "3:key_a", rate, isStrict: true };
const now = new Date(0);

/** A limiter that is started, and what it tells. Its deadline is one that a busy machine keeps. */
async function start(url: string, awayMode: AwayMode = "keys", deadlineMs = 10_000) {
  const decisions: AwayDecision[] = [];
  const changes: string[] = [];
  let onNext = () => {};
  const limiter = createSharedLimiter({
    url,
    awayMode,
    deadlineMs,
    onAwayDecision: (decision) => decisions.push(decision),
    onChange: (away) => {
      changes.push(away === undefined ? "here" : "away");
      onNext();
    },
  });
  await limiter.start();
  return {
    decisions,
    changes,
    take: async (...limits: Limit[]) => limiter.take(limits, now),
    /** Resolves once the last change is the one that is waited for. */
    async until(wanted: "here" | "away") {
      while (changes.at(-1) !== wanted) {
        await new Promise<void>((resolve) => {
          onNext = resolve;
        });
      }
    },
    [Symbol.asyncDispose]: () => limiter.close(),
  };
}

/** A limiter that counts in a Redis: the first attempt to connect may be late. */
async function startAt({ url }: TestRedis, awayMode?: AwayMode, deadlineMs?: number) {
  const at = await start(url, awayMode, deadlineMs);
  await at.until("here");
  at.changes.splice(0, at.changes.length, "here");
  return at;
}

/** What the work results in, if it waits neither for a timer nor for anything from outside. */
function atOnce<T>(work: Promise<T>): Promise<T | "late"> {
  return Promise.race([work, turned("late" as const)]);
}

/** What became of a call: how many it has left, or the reason of its refusal. */
async function outcomeOf(take: Promise<Verdict>): Promise<number | string> {
  return take.then(
    ({ allowed, remaining }) => (allowed ? remaining : "RATE_LIMITED"),
    (error) => error.details[0].value.reason,
  );
}

describe.skipIf(isWithoutRedis)("with Redis", () => {
  test("the time is that of Redis, whatever a process takes it for", async () => {
    await using redis = await startRedis();
    await using at = await startAt(redis);
    const once1: Limit = { id: "1:x", rate: { intervalMs: 3_600_000, burst: 1 } };

    const first = await at.take(once1);
    const second = await at.take(once1);

    expect(first.allowed).toBe(true);
    expect(second.allowed).toBe(false);
    expect(second.retryAfterMs).toBeGreaterThan(3_590_000);
    expect(second.retryAfterMs).toBeLessThanOrEqual(3_600_000);
  });

  const refused = "LIMITER_UNAVAILABLE";
  test.for([
    { mode: "keys", people: [9, 8], keys: [refused, refused] },
    { mode: "closed", people: [refused, refused], keys: [refused, refused] },
    { mode: "local", people: [9, 8], keys: [9, 8] },
    { mode: "open", people: [9, 9], keys: [9, 9] },
  ] as const)("killed and started again, it is away as $mode says", async (row) => {
    await using redis = await startRedis();
    await using at = await startAt(redis, row.mode);
    await at.take(person, key);
    await at.take(person, key);

    await redis.kill();
    await at.until("away");
    const people = [await outcomeOf(at.take(person)), await outcomeOf(at.take(person))];
    const keys = [await outcomeOf(at.take(key)), await outcomeOf(at.take(key))];
    const decided = at.decisions.length;
    await redis.restart();
    await at.until("here");
    const after = [await outcomeOf(at.take(person)), await outcomeOf(at.take(key))];

    expect({ people, keys }).toEqual({ people: row.people, keys: row.keys });
    expect(after, "Redis was empty").toEqual([9, 9]);
    expect(decided).toBe(4);
    expect(at.decisions).toHaveLength(4);
    expect(at.changes).toEqual(["here", "away", "here"]);
  });

  test("calls in flight when it is killed are decided at once, none twice", async () => {
    await using redis = await startRedis();
    await using at = await startAt(redis, "local");
    const wide: Limit = { id: "2:usr_b", rate: { intervalMs: 60_000, burst: 100_000 } };

    const takes = Array.from({ length: 500 }, () => at.take(wide));
    redis.freeze();
    const later = Array.from({ length: 500 }, () => at.take(wide));
    await redis.kill();
    const verdicts = await Promise.all([...takes, ...later]);

    expect(verdicts.every(({ allowed }) => allowed)).toBe(true);
    // What Redis did not answer is counted here, each call once.
    const alone = verdicts.filter((_, index) => index >= 1_000 - at.decisions.length);
    expect(at.decisions.length).toBeGreaterThanOrEqual(1);
    expect(alone.at(-1)?.remaining).toBe(100_000 - at.decisions.length);
    expect(at.changes).toEqual(["here", "away"]);
  });

  test("one that stops answering holds nobody up, and counts again once it answers", async () => {
    await using redis = await startRedis();
    await using at = await startAt(redis, "closed", 2_000);
    const ask = () => outcomeOf(at.take(person));

    redis.freeze();
    const first = await ask();
    const others = [await atOnce(ask()), await atOnce(ask()), await atOnce(ask())];
    redis.thaw();
    await at.until("here");
    const last = await ask();

    expect(first).toBe(refused);
    expect(others).toEqual([refused, refused, refused]);
    expect(last).toEqual(expect.any(Number));
    expect(at.changes).toEqual(["here", "away", "here"]);
  });

  test("one that cannot count is away: a replica, for example", async () => {
    await using redis = await startRedis();
    await using at = await startAt(redis, "closed");
    await using other = await startAt(redis);
    const { createClient } = await import("@redis/client");
    const client = createClient({ url: redis.url });
    await client.connect();

    await client.sendCommand(["REPLICAOF", "127.0.0.1", "1"]);
    await Promise.all([at.until("away"), other.until("away")]);
    const away = await outcomeOf(at.take(person));
    await client.sendCommand(["REPLICAOF", "NO", "ONE"]);
    await at.until("here");

    client.destroy();
    expect(away).toBe(refused);
    expect(await outcomeOf(at.take(person))).toBe(9);
  });
});

test("a port that takes connections and never answers delays the start by a second at most", async () => {
  const sockets: Socket[] = [];
  const server = createServer((socket) => void sockets.push(socket)).listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const begun = performance.now();

  await using at = await start(`redis://127.0.0.1:${port}`, "keys", 200);
  const startedMs = performance.now() - begun;
  const outcomes = [
    await atOnce(outcomeOf(at.take(person))),
    await atOnce(outcomeOf(at.take(key))),
  ];

  for (const socket of sockets) socket.destroy();
  server.close();
  expect(startedMs).toBeLessThan(8_000);
  expect(outcomes).toEqual([9, "LIMITER_UNAVAILABLE"]);
  expect(at.changes).toEqual(["away"]);
});

test("without a Redis at the start it counts as away, and nothing waits", async () => {
  await using at = await start("redis://127.0.0.1:1", "keys");

  expect(await outcomeOf(at.take(person))).toBe(9);
  expect(await outcomeOf(at.take(person, key))).toBe("LIMITER_UNAVAILABLE");
  expect(at.decisions).toEqual(["counted_alone", "refused"]);
});
