import assert from "node:assert";
import { createHash } from "node:crypto";
import { z } from "zod";
import { chargeOf, checkLimits, judge, type Limit, type Verdict } from "../rpc/gcra.ts";
import { isMissingScript, type Send } from "./redis-link.ts";

/**
 * What gcra.ts does, in Redis: by its clock, for all limits or none. A key is gone once its whole budget is
 * back, since then there is nothing to remember.
 *
 * ARGV has for each key the window and the cost, in microseconds. The reply is the time, 1 if the
 * call is counted, and what was stored for each key. Redis counts a key's life from when the script began, in whole
 * milliseconds: hence one more. Numbers are exact below 2^53; tostring() would not be.
 */
const script = `
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local reply = {now, 1}
local afters = {}
for i = 1, #KEYS do
  local window, cost = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local stored = tonumber(redis.call('GET', KEYS[i]) or '0') or 0
  afters[i] = math.min(math.max(stored, now), now + window) + cost
  if afters[i] > now + window then reply[2] = 0 end
  reply[i + 2] = stored
end
if reply[2] == 1 then
  for i = 1, #KEYS do
    if afters[i] > now then
      redis.call('SET', KEYS[i], string.format('%.0f', afters[i]),
        'PX', string.format('%.0f', math.ceil((afters[i] - now) / 1000) + 1))
    end
  end
end
return reply
`;
const scriptHash = createHash("sha1").update(script).digest("hex");

const replyShape = z.array(z.int()).min(3);

/** A limiter whose counts are in Redis. */
export interface RedisLimiter {
  /** Count a call, by Redis's clock, against all limits or none. Throws what `send` throws. */
  take(limits: readonly Limit[]): Promise<Verdict>;
}

/** Count calls in Redis: right for all processes that share it. */
export function createRedisLimiter({
  send,
  prefix = "callora:limit:",
}: {
  send: Send;
  /** What the names of its keys begin with. */
  prefix?: string;
}): RedisLimiter {
  async function run(args: readonly string[]): Promise<readonly number[]> {
    const reply = await send(["EVALSHA", scriptHash, ...args]).catch((error: unknown) => {
      if (!isMissingScript(error)) {
        throw error;
      }
      return send(["EVAL", script, ...args]);
    });
    return replyShape.parse(reply);
  }

  return {
    async take(limits) {
      checkLimits(limits);
      const charges = limits.map(chargeOf);
      const [nowUs = 0, isCounted, ...storedUs] = await run([
        String(limits.length),
        ...limits.map(({ id }) => prefix + keyOf(id)),
        ...charges.flatMap(({ windowUs, costUs }) => [String(windowUs), String(costUs)]),
      ]);
      const counted = limits.map((limit, index) => ({
        limit,
        charge: charges[index] ?? chargeOf(limit),
        backAtUs: storedUs[index] ?? 0,
      }));
      const verdict = judge(counted, nowUs);
      const isAgreed = storedUs.length === limits.length && verdict.allowed === (isCounted === 1);
      assert(isAgreed, "Cannot trust the count of Redis: it differs from ours");
      return verdict;
    },
  };
}

/** `class:principal` as `{principal}:class`: in a cluster all limits of a caller are in one place. */
function keyOf(id: string): string {
  const end = id.indexOf(":");
  return `{${id.slice(end + 1)}}:${id.slice(0, Math.max(0, end))}`;
}
