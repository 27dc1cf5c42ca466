import assert from "node:assert";

/** How many calls are let through, by the generic cell rate algorithm. */
export interface Rate {
  /** The time that one call takes from the budget. A fraction is rounded up to a microsecond. */
  readonly intervalMs: number;
  /** Calls that may come at once. */
  readonly burst: number;
}

/** One limit that a call counts against. */
export interface Limit {
  /** `class:principal`. What is counted under one id shares one budget. */
  readonly id: string;
  readonly rate: Rate;
  /** How many calls it counts for: 1 unless set. More than the burst is never allowed. */
  readonly cost?: number;
  /** Whether strangers choose its id, as that of an address: in memory such limits push out only each other. */
  readonly isOfStranger?: boolean;
  /** Whether to refuse, by default, when processes share their counts and the shared ones cannot be had. */
  readonly isStrict?: boolean;
}

/** What a limiter says of one call. */
export interface Verdict {
  readonly allowed: boolean;
  readonly limit: number;
  readonly remaining: number;
  /** Until the whole budget is back. */
  readonly resetMs: number;
  /** Until the call is welcome. Zero when it was. */
  readonly retryAfterMs: number;
}

/**
 * A limit in whole microseconds. Milliseconds with fractions would drift, and differ between here and Redis.
 *
 * All sums of them with a time since 1970 stay below 2^53, so both sides add them exactly.
 */
export interface Charge {
  readonly intervalUs: number;
  /** The whole budget: the time that a burst takes. */
  readonly windowUs: number;
  /** What this call takes of it. */
  readonly costUs: number;
}

/** A limit and when its whole budget is back, as far as it is known. */
export interface Counted {
  readonly limit: Limit;
  readonly charge: Charge;
  readonly backAtUs: number;
}

/** The longest time that a budget may take to come back: 400 days. */
const windowUsMax = 400 * 24 * 3600 * 1e6;

/** The charge of a limit. Throws on a rate or a cost that is out of range. */
export function chargeOf({ rate, cost = 1 }: Limit): Charge {
  const { intervalMs, burst } = rate;
  const intervalUs = Math.ceil(intervalMs * 1000);
  assert(intervalUs >= 1, "Cannot limit: an interval is at least a microsecond");
  assert(Number.isSafeInteger(burst) && burst >= 1, "Cannot limit: a burst is a whole number");
  assert(Number.isSafeInteger(cost) && cost >= 0, "Cannot limit: a cost is a whole number");
  const windowUs = intervalUs * burst;
  assert(windowUs <= windowUsMax, "Cannot limit: the budget takes too long to come back");
  return { intervalUs, windowUs, costUs: intervalUs * Math.min(cost, burst + 1) };
}

/**
 * When the whole budget would be back if the call were counted. The call is within the limit if that is no
 * later than a window from now.
 *
 * What is stored counts for a window at most: neither a clock that was set back nor a rate that was changed
 * locks a caller out.
 */
export function backAfter({ windowUs, costUs }: Charge, storedUs: number, nowUs: number): number {
  return Math.min(Math.max(storedUs, nowUs), nowUs + windowUs) + costUs;
}

/** Whether a call is within a limit, alone. */
export function isWithin(charge: Charge, storedUs: number, nowUs: number): boolean {
  return backAfter(charge, storedUs, nowUs) <= nowUs + charge.windowUs;
}

/** The most limits that one call may count against. */
export const limitsMax = 8;

/** Throws unless there is a limit, there are few, and no two of them have the same id. */
export function checkLimits(limits: readonly Limit[]): void {
  assert(limits.length > 0 && limits.length <= limitsMax, "Cannot limit: 1 to 8 limits at once");
  if (limits.length > 1) {
    const distinct = new Set(limits.map(({ id }) => id));
    assert(distinct.size === limits.length, "Cannot limit: a limit is named twice");
  }
}

/**
 * The verdict over several limits, all or nothing, from what was stored of them before the call: that of the
 * one that is waited for longest, or if all allow it, that has the least left.
 */
export function judge(counted: readonly Counted[], nowUs: number): Verdict {
  const allowed = counted.every(({ charge, backAtUs }) => isWithin(charge, backAtUs, nowUs));
  let tightest: Verdict | undefined;
  for (const one of counted) {
    const verdict = verdictOf(one, { allowed, nowUs });
    if (tightest === undefined || isTighter(verdict, tightest)) {
      tightest = verdict;
    }
  }
  assert(tightest !== undefined, "Cannot judge a call without limits");
  return tightest;
}

/** The verdict over one limit. */
export function judgeOne(one: Counted, nowUs: number): Verdict {
  return verdictOf(one, { allowed: isWithin(one.charge, one.backAtUs, nowUs), nowUs });
}

function verdictOf(
  { limit, charge, backAtUs }: Counted,
  { allowed, nowUs }: { allowed: boolean; nowUs: number },
): Verdict {
  const { intervalUs, windowUs, costUs } = charge;
  const afterUs = backAfter(charge, backAtUs, nowUs);
  const spentUs = (allowed ? afterUs : afterUs - costUs) - nowUs;
  return {
    allowed,
    limit: limit.rate.burst,
    remaining: Math.floor((windowUs - spentUs) / intervalUs),
    resetMs: Math.ceil(spentUs / 1000),
    retryAfterMs: allowed ? 0 : Math.max(0, Math.ceil((afterUs - windowUs - nowUs) / 1000)),
  };
}

function isTighter(a: Verdict, b: Verdict): boolean {
  if (a.retryAfterMs !== b.retryAfterMs) {
    return a.retryAfterMs > b.retryAfterMs;
  }
  return a.remaining === b.remaining ? a.resetMs > b.resetMs : a.remaining < b.remaining;
}

/** `count` calls a minute, of which `burst` may come at once: all of them unless said otherwise. */
export function perMinute(count: number, burst = count): Rate {
  return { intervalMs: 60_000 / count, burst };
}

/** `count` calls a second, of which `burst` may come at once. */
export function perSecond(count: number, burst: number): Rate {
  return { intervalMs: 1000 / count, burst };
}
