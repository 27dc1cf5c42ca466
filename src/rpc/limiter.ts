import { RateClass } from "../../gen/callora/policy/v1/policy_pb.ts";

/** How many calls a class lets through, by the generic cell rate algorithm. */
export interface Rate {
  /** The time one call takes from the budget. */
  intervalMs: number;
  /** Calls that may come at once. */
  burst: number;
}

/** What a limiter says of one call. */
export interface Verdict {
  allowed: boolean;
  limit: number;
  remaining: number;
  /** Until the whole budget is back. */
  resetMs: number;
  /** Until the next call is welcome. Zero when this one was. */
  retryAfterMs: number;
}

/** The rates of the classes. Undefined: not limited. */
export const rates: Readonly<Record<number, Rate | undefined>> = {
  [RateClass.UNSPECIFIED]: undefined,
  [RateClass.NONE]: undefined,
  [RateClass.INTERNAL]: undefined,
  [RateClass.CONSOLE]: { intervalMs: 1000, burst: 60 },
  [RateClass.V1]: { intervalMs: 600, burst: 100 },
  [RateClass.ADMIN]: { intervalMs: 2000, burst: 30 },
  [RateClass.LOGIN]: { intervalMs: 6000, burst: 5 },
  [RateClass.MONITOR]: { intervalMs: 100, burst: 20 },
  [RateClass.VERIFY]: { intervalMs: 10, burst: 200 },
} satisfies Record<RateClass, Rate | undefined>;

/** Callers that are remembered. Past it the oldest are forgotten, which only lets more calls through. */
const callersMax = 100_000;

/** Count calls, by caller. In memory: right for one process. */
export function createLimiter() {
  // For each caller, the time at which the whole budget is back.
  const backAt = new Map<string, number>();

  return {
    take(caller: string, { intervalMs, burst }: Rate, now: Date): Verdict {
      const nowMs = now.getTime();
      const before = Math.max(backAt.get(caller) ?? nowMs, nowMs);
      const after = before + intervalMs;
      const waitMs = after - intervalMs * burst - nowMs;
      const allowed = waitMs <= 0;
      if (allowed) {
        backAt.delete(caller);
        backAt.set(caller, after);
        forgetOldest(backAt);
      }
      const spentMs = (allowed ? after : before) - nowMs;
      return {
        allowed,
        limit: burst,
        remaining: Math.max(0, Math.floor(burst - spentMs / intervalMs)),
        resetMs: spentMs,
        retryAfterMs: allowed ? 0 : waitMs,
      };
    },
  };
}

/** A limiter of calls. */
export type Limiter = ReturnType<typeof createLimiter>;

function forgetOldest(backAt: Map<string, number>): void {
  if (backAt.size <= callersMax) {
    return;
  }
  const oldest = backAt.keys().next();
  if (!oldest.done) {
    backAt.delete(oldest.value);
  }
}
