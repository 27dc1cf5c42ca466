import { createHash, timingSafeEqual } from "node:crypto";
import { Counter, collectDefaultMetrics, Gauge, Registry } from "prom-client";
import type { Environment } from "./config.ts";
import type { TrustStats } from "./db/trust.ts";
import { HttpSeries } from "./http-series.ts";

/** One answered HTTP request. */
export interface ObservedRequest {
  method: string;
  /** The pattern of the route, never the path: each value is kept for ever. */
  route: string;
  statusCode: number;
  durationMs: number;
}

const bucketsSeconds = [0.005, 0.01, 0.025, 0.05, 0.1, 0.3, 0.5, 1, 2, 5];
const routesMax = 1_000;
const other = "OTHER";

const methods: ReadonlySet<string> = new Set([
  ...["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"],
]);

/**
 * The server's metrics: Node's own, and those of HTTP. Features register theirs with `registry`.
 */
export function createMetrics() {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  const series = new HttpSeries(registry, bucketsSeconds);
  const routes = new Set<string>();

  // The number of series stays bounded, whatever the callers of `observe` pass on.
  function toRoute(route: string): string {
    if (!routes.has(route)) {
      if (routes.size >= routesMax) return other;
      routes.add(route);
    }
    return route;
  }

  return {
    registry,
    /** Count a request. */
    observe({ method, route, statusCode, durationMs }: ObservedRequest): void {
      series.add(
        toRoute(route),
        methods.has(method) ? method : other,
        isStatus(statusCode) ? statusCode : 0,
        Math.max(0, durationMs) / 1000,
      );
    },
    /** Show what the process may say from memory. Call it once. */
    watchTrust(stats: () => TrustStats): void {
      watchTrust(registry, stats);
    },
    /** All metrics in Prometheus's text format. */
    async render(): Promise<{ contentType: string; body: string }> {
      return { contentType: registry.contentType, body: await registry.metrics() };
    },
  };
}

function watchTrust(registry: Registry, stats: () => TrustStats): void {
  const counters = [
    ["callora_trust_losses_total", "Times that the process lost its lease", "losses"],
    [
      "callora_trust_refusals_total",
      "Questions that could not be answered for want of trust",
      "refusals",
    ],
    ["callora_memory_hits_total", "Questions that were answered from memory", "hits"],
    ["callora_memory_loads_total", "Loads of what was not remembered", "loads"],
  ] as const;
  for (const [name, help, field] of counters) {
    const counter = new Counter({ name, help, registers: [registry], collect });
    function collect() {
      counter.reset();
      counter.inc(stats()[field]);
    }
  }
  const gauges = [
    [
      "callora_trust_lost",
      "1 while the process may not answer from memory",
      ({ isHeld }: TrustStats) => (isHeld ? 0 : 1),
    ],
    ["callora_memory_entries", "Keys that are remembered", ({ entries }: TrustStats) => entries],
  ] as const;
  for (const [name, help, read] of gauges) {
    const gauge = new Gauge({ name, help, registers: [registry], collect });
    function collect() {
      gauge.set(read(stats()));
    }
  }
}

/** The server's metrics. */
export type Metrics = ReturnType<typeof createMetrics>;

/**
 * Whether a request with that `Authorization` header may read the metrics. With a key only who
 * presents it as a bearer token; without one everybody, but nobody in production.
 */
export function metricsAllowed({
  environment,
  apiKey,
  authorization,
}: {
  environment: Environment;
  apiKey: string | undefined;
  authorization: string | null | undefined;
}): boolean {
  if (!apiKey) {
    return environment !== "production";
  }
  const token = /^bearer +(\S+)$/i.exec(authorization ?? "")?.[1];
  return token !== undefined && isSame(token, apiKey);
}

/** In a time that tells nothing of the key, its length included. */
function isSame(a: string, b: string): boolean {
  const digest = (text: string) => createHash("sha256").update(text).digest();
  return timingSafeEqual(digest(a), digest(b));
}

function isStatus(statusCode: number): boolean {
  return Number.isInteger(statusCode) && statusCode >= 100 && statusCode <= 599;
}
