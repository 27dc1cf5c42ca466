import { cors as connectCors } from "@connectrpc/connect";
import type { Arrival } from "./arrival.ts";

/** Answers what browsers ask about other origins. */
export interface Cors {
  /** Set the headers that let a script of an allowed origin read the reply. */
  mark(arrival: Arrival): void;
  /** Whether the request only asks what a script may send. */
  isPreflight(arrival: Arrival): boolean;
  /** Add the answer to a preflight of an allowed origin. */
  permit(arrival: Arrival, methods: readonly string[]): void;
}

const maxAgeSeconds = 7200;

const allowedHeaders = [
  ...connectCors.allowedHeaders,
  "Accept",
  "Authorization",
  "Idempotency-Key",
  "Traceparent",
  "Tracestate",
  "X-Account-Id",
  "X-API-Key",
  "X-Request-Id",
].join(", ");

const exposedHeaders = [
  ...connectCors.exposedHeaders,
  "Allow",
  "Retry-After",
  "WWW-Authenticate",
  "X-RateLimit-Limit",
  "X-RateLimit-Remaining",
  "X-RateLimit-Reset",
  "X-Request-Id",
].join(", ");

/**
 * Let scripts of the given origins call. "*" lets those of any origin call, but without cookies.
 * Throws if an entry is not an origin: it would never match.
 */
export function createCors({ origins }: { origins: readonly string[] }): Cors {
  for (const origin of origins) {
    if (origin !== "*" && URL.parse(origin)?.origin !== origin) {
      throw new Error(`Cannot allow origin "${origin}": it is not of the form "https://host"`);
    }
  }
  const named = new Set(origins);
  const isOpen = named.delete("*");

  return {
    mark(arrival) {
      if (named.size === 0 && !isOpen) {
        return;
      }
      // Also without Origin, so that a cache keeps the variants apart.
      arrival.setHeader("vary", "origin");
      const origin = arrival.header("origin");
      if (origin === undefined) {
        return;
      }
      if (named.has(origin)) {
        arrival.setHeader("access-control-allow-origin", origin);
        arrival.setHeader("access-control-allow-credentials", "true");
      } else if (isOpen) {
        arrival.setHeader("access-control-allow-origin", "*");
      } else {
        return;
      }
      arrival.setHeader("access-control-expose-headers", exposedHeaders);
    },
    isPreflight(arrival) {
      return (
        arrival.method === "OPTIONS" &&
        arrival.header("origin") !== undefined &&
        arrival.header("access-control-request-method") !== undefined
      );
    },
    permit(arrival, methods) {
      const origin = arrival.header("origin") ?? "";
      if (named.has(origin) || isOpen) {
        arrival.setHeader("access-control-allow-methods", methods.join(", "));
        arrival.setHeader("access-control-allow-headers", allowedHeaders);
        arrival.setHeader("access-control-max-age", String(maxAgeSeconds));
      }
    },
  };
}
