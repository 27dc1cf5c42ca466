import { describe, expect, test } from "vitest";
import { isWithoutRedis, startRedis } from "../../test/support/redis.ts";
import { createRedisLink, RedisAwayError } from "./redis-link.ts";

describe.skipIf(isWithoutRedis)("with Redis", () => {
  test("a late answer fails its command alone while others come, else the connection", async () => {
    await using redis = await startRedis();
    const changes: (Error | undefined)[] = [];
    const link = createRedisLink({
      url: redis.url,
      probe: async () => {},
      onChange: (away) => changes.push(away),
      deadlineMs: 500,
    });
    await link.start();
    // It holds up what comes after it on the connection.
    const wait = (seconds: string) => link.send(["BLPOP", "nothing", seconds]);

    const [first, second] = await Promise.allSettled([wait("0.3"), wait("0.4")]);
    const busy = [...changes];
    const third = await wait("2").catch((error: Error) => error);

    await link.close();
    expect(first).toEqual({ status: "fulfilled", value: null });
    expect(second).toMatchObject({ status: "rejected", reason: expect.any(RedisAwayError) });
    expect(busy).toEqual([undefined]);
    expect(third).toBeInstanceOf(RedisAwayError);
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
