import { createHash, timingSafeEqual } from "node:crypto";
import { Counter, collectDefaultMetrics, Histogram, Registry } from "prom-client";
import type { Environment } from "./config.ts";

/** One answered HTTP request. */
export interface ObservedRequest {
  method: string;
  /** The pattern of the route, never the path: each value is kept for ever. */
  route: string;
  statusCode: number;
  durationMs: number;
}

const labelNames = ["method", "route", "status_code"] as const;
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
  const requests = new Counter({
    name: "http_requests_total",
    help: "HTTP requests that were answered",
    labelNames,
    registers: [registry],
  });
  const durations = new Histogram({
    name: "http_request_duration_seconds",
    help: "Time from an HTTP request's headers to the end of its response",
    labelNames,
    buckets: bucketsSeconds,
    registers: [registry],
  });
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
      const labels = {
        method: methods.has(method) ? method : other,
        route: toRoute(route),
        status_code: isStatus(statusCode) ? String(statusCode) : other,
      };
      requests.inc(labels);
      durations.observe(labels, Math.max(0, durationMs) / 1000);
    },
    /** All metrics in Prometheus's text format. */
    async render(): Promise<{ contentType: string; body: string }> {
      return { contentType: registry.contentType, body: await registry.metrics() };
    },
  };
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
