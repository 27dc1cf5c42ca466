import { Counter, Gauge } from "prom-client";
import type { Config } from "./config.ts";
import { type AwayMode, createSharedLimiter } from "./limits/shared-limiter.ts";
import type { Logger } from "./log.ts";
import type { Metrics } from "./metrics.ts";
import { createLimiter, type Limiter } from "./rpc/limiter.ts";

/** The limiter of a server, to be started and closed with it. */
export interface RateLimits {
  limiter: Limiter;
  start(): Promise<void>;
  close(): Promise<void>;
}

const told = {
  keys: "calls with an API key are refused, others counted by each process alone",
  closed: "limited calls are refused",
  local: "each process counts alone",
  open: "calls are not limited",
} satisfies Record<AwayMode, string>;

/** Count calls in Redis if the configuration names one, else in memory. */
export function createRateLimits({
  config: { redisUrl: url, rateLimitRedisAway: awayMode },
  log,
  metrics: { registry },
}: {
  config: Config;
  log: Logger;
  metrics: Metrics;
}): RateLimits {
  if (url === undefined) {
    return { limiter: createLimiter(), start: async () => {}, close: async () => {} };
  }
  const up = new Gauge({
    name: "callora_rate_limit_redis_up",
    help: "Whether Redis counts the rate limits",
    registers: [registry],
  });
  const decisions = new Counter({
    name: "callora_rate_limit_redis_away_total",
    help: "Limited calls while Redis was away, by what was done with them",
    labelNames: ["decision"],
    registers: [registry],
  });
  const limiter = createSharedLimiter({
    url,
    awayMode,
    onAwayDecision: (decision) => decisions.inc({ decision }),
    onChange: (err) => {
      up.set(err === undefined ? 1 : 0);
      if (err === undefined) {
        log.info("Redis counts the rate limits");
      } else {
        log.warn(`Cannot count the rate limits in Redis: ${told[awayMode]}`, { err });
      }
    },
  });
  return { limiter, start: () => limiter.start(), close: () => limiter.close() };
}
