import type { RateClass } from "../../gen/callora/policy/v1/policy_pb.ts";
import { addressBlock } from "../lib/address.ts";
import type { Call, Exchange } from "./call.ts";
import { rateLimited } from "./errors.ts";
import type { Verdict } from "./gcra.ts";
import type { Limiter, Rate } from "./limiter.ts";
import { limitedId, type Principal } from "./principal.ts";
import { countsAddresses, rateFor } from "./rates.ts";

/** The rates that one caller has instead of the classes' own. */
export type OwnRates = Readonly<Partial<Record<RateClass, Rate>>>;

/** What limiting a call needs. */
export interface LimitDeps {
  readonly limiter: Limiter;
  readonly now: () => Date;
  /** The caller's own rates; null: none. A promise only when they are not in memory. */
  readonly ownRates?: (principal: Principal) => OwnRates | null | Promise<OwnRates | null>;
}

/**
 * Count a call against its class's limit, and say in the reply's headers what is left of it. A promise only
 * when something is not in memory.
 *
 * Throws RESOURCE_EXHAUSTED beyond the limit, and what the limiter throws.
 */
export function limitCall(deps: LimitDeps, call: Call): void | Promise<void> {
  const { rateClass } = call.policy;
  const principal = countsAddresses(rateClass) ? undefined : call.principal;
  const rate = rateFor(rateClass, principal);
  if (rate === undefined) {
    return;
  }
  const own = principal === undefined ? null : (deps.ownRates?.(principal) ?? null);
  if (own instanceof Promise) {
    return own.then((found) => count(deps, call, { principal, rate: found?.[rateClass] ?? rate }));
  }
  return count(deps, call, { principal, rate: own?.[rateClass] ?? rate });
}

function count(
  { limiter, now }: LimitDeps,
  { policy, exchange }: Call,
  { principal, rate }: { principal: Principal | undefined; rate: Rate },
): void | Promise<void> {
  const caller = principal === undefined ? addressBlock(exchange.clientIp) : limitedId(principal);
  const id = `${policy.rateClass}:${caller}`;
  const isStrict = principal?.kind === "key";
  const isOfStranger = principal === undefined;
  const verdict = limiter.take([{ id, rate, isStrict, isOfStranger }], now());
  return verdict instanceof Promise
    ? verdict.then((later) => applyVerdict(exchange, later))
    : applyVerdict(exchange, verdict);
}

/** Say in the reply's headers what a limiter said. Throws RESOURCE_EXHAUSTED if the call is refused. */
export function applyVerdict(exchange: Exchange, verdict: Verdict): void {
  exchange.setHeader("x-ratelimit-limit", String(verdict.limit));
  exchange.setHeader("x-ratelimit-remaining", String(verdict.remaining));
  exchange.setHeader("x-ratelimit-reset", String(Math.ceil(verdict.resetMs / 1000)));
  if (!verdict.allowed) {
    exchange.setHeader("retry-after", String(Math.ceil(verdict.retryAfterMs / 1000)));
    throw rateLimited(verdict.retryAfterMs);
  }
}
