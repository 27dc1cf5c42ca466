import { createLruMap, type LruMap } from "../lib/lru-map.ts";
import {
  backAfter,
  chargeOf,
  checkLimits,
  judge,
  judgeOne,
  type Limit,
  type Verdict,
} from "./gcra.ts";

export type { Limit, Rate, Verdict } from "./gcra.ts";

/** Counts calls against limits. */
export interface Limiter {
  /**
   * Count a call against all of the limits, or, if it is beyond one of them, against none. The verdict is the
   * tightest one's. A promise only where the counts are not in this process.
   *
   * Throws UNAVAILABLE with reason LIMITER_UNAVAILABLE when the counts cannot be had and that is to refuse.
   */
  take(limits: readonly Limit[], now: Date): Verdict | Promise<Verdict>;
}

/** A limiter whose counts are in this process. */
export interface MemoryLimiter extends Limiter {
  take(limits: readonly Limit[], now: Date): Verdict;
}

/**
 * Limits that are remembered of known callers, and as many of strangers. Past it those asked about longest ago are
 * forgotten: that only lets more calls through.
 */
const entriesMaxDefault = 100_000;

/** As most calls have: one limit. */
function takeOne(map: LruMap<number>, limit: Limit, nowUs: number): Verdict {
  const charge = chargeOf(limit);
  const one = { limit, charge, backAtUs: map.get(limit.id) ?? 0 };
  const verdict = judgeOne(one, nowUs);
  if (verdict.allowed) {
    map.set(limit.id, backAfter(charge, one.backAtUs, nowUs));
  }
  return verdict;
}

/** Count calls in memory: right for one process. */
export function createLimiter({ entriesMax = entriesMaxDefault } = {}): MemoryLimiter {
  // By the id of a limit, the time at which its whole budget is back. Apart, since nobody can make up principals.
  const known = createLruMap<number>(entriesMax);
  const strangers = createLruMap<number>(entriesMax);
  const mapOf = ({ isOfStranger }: Limit) => (isOfStranger === true ? strangers : known);

  return {
    take(limits, now) {
      checkLimits(limits);
      const nowUs = now.getTime() * 1000;
      const [only] = limits;
      if (only !== undefined && limits.length === 1) {
        return takeOne(mapOf(only), only, nowUs);
      }
      const counted = limits.map((limit) => ({
        limit,
        charge: chargeOf(limit),
        backAtUs: mapOf(limit).get(limit.id) ?? 0,
      }));
      const verdict = judge(counted, nowUs);
      if (verdict.allowed) {
        for (const { limit, charge, backAtUs } of counted) {
          mapOf(limit).set(limit.id, backAfter(charge, backAtUs, nowUs));
        }
      }
      return verdict;
    },
  };
}
