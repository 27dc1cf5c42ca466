import { createClient } from "@redis/client";
import { describe, expect, onTestFinished, test, vi } from "vitest";
import { isWithoutRedis, startRedis } from "../../test/support/redis.ts";
import { createRedisLink, RedisAwayError } from "./redis-link.ts";

describe.skipIf(isWithoutRedis)("with Redis", () => {
  test("a late answer fails its command alone while others come, else the connection", async () => {
    await using redis = await startRedis();
    const changes: (Error | undefined)[] = [];
    const deadlineMs = 500;
    const link = createRedisLink({
      url: redis.url,
      probe: async () => {},
      onChange: (away) => changes.push(away),
      deadlineMs,
    });
    await link.start();
    const other = createClient({ url: redis.url });
    await other.connect();
    onTestFinished(() => void vi.useRealTimers());
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    // It holds up what comes after it on the connection.
    const wait = () => link.send(["BLPOP", "list", "0"]);

    const first = wait();
    const second = wait().catch((error: Error) => error);
    await other.sendCommand(["RPUSH", "list", "one"]);
    const answer = await first;
    vi.advanceTimersByTime(deadlineMs);
    const late = await second;
    const busy = [...changes];
    const third = wait().catch((error: Error) => error);
    vi.advanceTimersByTime(deadlineMs);
    const last = await third;

    vi.useRealTimers();
    other.destroy();
    await link.close();
    expect(answer).toEqual(["list", "one"]);
    expect(late).toBeInstanceOf(RedisAwayError);
    expect(busy).toEqual([undefined]);
    expect(last).toBeInstanceOf(RedisAwayError);
    expect(changes).toEqual([undefined, expect.any(RedisAwayError)]);
  });

  test("closed while it connects, it leaves nothing open", async () => {
    await using redis = await startRedis();
    const changes: unknown[] = [];
    const onChange = (away: Error | undefined) => changes.push(away);
    const link = createRedisLink({ url: redis.url, probe: async () => {}, onChange });

    const started = link.start();
    await link.close();
    await started;

    await expect(link.send(["PING"])).rejects.toBeInstanceOf(RedisAwayError);
    expect(changes).toEqual([]);
  });
});
