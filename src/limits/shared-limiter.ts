import { unavailable } from "../rpc/errors.ts";
import { chargeOf, judge, type Limit, type Verdict } from "../rpc/gcra.ts";
import { createLimiter, type Limiter } from "../rpc/limiter.ts";
import { createRedisLimiter } from "./redis-limiter.ts";
import { createRedisLink, RedisAwayError } from "./redis-link.ts";

/**
 * What becomes of limited calls while Redis is away: `closed` refuses them, `open` lets them pass uncounted,
 * `local` counts them in each process alone, `keys` refuses those with an API key and counts the others alone.
 */
export const awayModes = ["keys", "closed", "local", "open"] as const;

/** One of awayModes. */
export type AwayMode = (typeof awayModes)[number];

/** What was done with one call while Redis was away. */
export type AwayDecision = "refused" | "counted_alone" | "uncounted";

/** A limiter that processes share, to be started and closed. */
export interface SharedLimiter extends Limiter {
  /** Connect. Resolves after the first attempt, whatever came of it. */
  start(): Promise<void>;
  close(): Promise<void>;
}

/** Count calls in Redis, and while it is away as told. */
export function createSharedLimiter({
  url,
  awayMode,
  onAwayDecision,
  onChange,
  deadlineMs,
}: {
  url: string;
  awayMode: AwayMode;
  onAwayDecision: (decision: AwayDecision) => void;
  /** Told when Redis went away, with the reason, and when it came back: undefined. */
  onChange: (away: Error | undefined) => void;
  /** The longest that a call waits for Redis: 250 ms unless set. */
  deadlineMs?: number;
}): SharedLimiter {
  const link = createRedisLink({
    url,
    // What answers, but cannot count, is away too: a replica, one that still loads, one that is full.
    probe: async (send) => {
      await createRedisLimiter({ send }).take([probeLimit]);
    },
    onChange,
    ...(deadlineMs === undefined ? {} : { deadlineMs }),
  });
  const redis = createRedisLimiter({ send: link.send });
  const alone = createLimiter();

  function takeAlone(limits: readonly Limit[], now: Date): Verdict {
    const decision = decisionOf(awayMode, limits);
    onAwayDecision(decision);
    if (decision === "refused") {
      const message = "Cannot count the call: the shared limits are not there; try again in 1 s";
      throw unavailable("LIMITER_UNAVAILABLE", message);
    }
    return decision === "uncounted" ? uncounted(limits, now) : alone.take(limits, now);
  }

  return {
    async take(limits, now) {
      try {
        return await redis.take(limits);
      } catch (error) {
        if (!(error instanceof RedisAwayError)) {
          throw error;
        }
      }
      return takeAlone(limits, now);
    },
    start: () => link.start(),
    close: () => link.close(),
  };
}

const probeLimit: Limit = { id: "probe:redis", rate: { intervalMs: 1, burst: 1_000_000 } };

function decisionOf(mode: AwayMode, limits: readonly Limit[]): AwayDecision {
  const decisions = {
    closed: "refused",
    open: "uncounted",
    local: "counted_alone",
    keys: limits.some(({ isStrict }) => isStrict) ? "refused" : "counted_alone",
  } satisfies Record<AwayMode, AwayDecision>;
  return decisions[mode];
}

/** The verdict on the first call of a caller. */
function uncounted(limits: readonly Limit[], now: Date): Verdict {
  const counted = limits.map((limit) => ({ limit, charge: chargeOf(limit), backAtUs: 0 }));
  return { ...judge(counted, now.getTime() * 1000), allowed: true, retryAfterMs: 0 };
}
