import { cors as connectCors } from "@connectrpc/connect";
import { type HttpRequest, type HttpResponse, headerOf } from "./http-message.ts";

/** Answers what browsers ask about other origins. */
export interface Cors {
  /** Set the headers that let a script of an allowed origin read the reply. */
  mark(request: HttpRequest, response: HttpResponse): void;
  /** Whether the request only asks what a script may send. */
  isPreflight(request: HttpRequest): boolean;
  /** Add the answer to a preflight of an allowed origin. */
  permit(request: HttpRequest, response: HttpResponse, methods: readonly string[]): void;
}

const maxAgeSeconds = 7200;

const allowedHeaders = [
  ...connectCors.allowedHeaders,
  "Accept",
  "Authorization",
  "Idempotency-Key",
  "Traceparent",
  "Tracestate",
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
    mark(request, response) {
      if (named.size === 0 && !isOpen) {
        return;
      }
      // Also without Origin, so that a cache keeps the variants apart.
      response.setHeader("vary", "origin");
      const origin = headerOf(request, "origin");
      if (origin === undefined) {
        return;
      }
      if (named.has(origin)) {
        response.setHeader("access-control-allow-origin", origin);
        response.setHeader("access-control-allow-credentials", "true");
      } else if (isOpen) {
        response.setHeader("access-control-allow-origin", "*");
      } else {
        return;
      }
      response.setHeader("access-control-expose-headers", exposedHeaders);
    },
    isPreflight(request) {
      return (
        request.method === "OPTIONS" &&
        headerOf(request, "origin") !== undefined &&
        headerOf(request, "access-control-request-method") !== undefined
      );
    },
    permit(request, response, methods) {
      const origin = headerOf(request, "origin") ?? "";
      if (named.has(origin) || isOpen) {
        response.setHeader("access-control-allow-methods", methods.join(", "));
        response.setHeader("access-control-allow-headers", allowedHeaders);
        response.setHeader("access-control-max-age", String(maxAgeSeconds));
      }
    },
  };
}
