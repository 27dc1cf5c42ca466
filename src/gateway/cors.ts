import type { CorsRule } from "./api.ts";
import type { Inbound } from "./inbound.ts";

const exposedHeaders = [
  "Allow",
  "ETag",
  "Retry-After",
  "Server-Timing",
  "X-Callora-Charged-Nanos",
  "X-Callora-Location",
  "X-Callora-Mode",
  "X-Callora-Price-Version",
  "X-Callora-Remaining-Nanos",
  "X-Callora-Reserved-Nanos",
  "X-RateLimit-Limit",
  "X-RateLimit-Remaining",
  "X-RateLimit-Reset",
  "X-Request-Id",
].join(", ");

/** Between two questions of a browser. */
const maxAgeSeconds = 600;

/** Whether a browser asks what a script may send. */
export function isPreflight(inbound: Inbound): boolean {
  return (
    inbound.method === "OPTIONS" &&
    inbound.header("origin") !== undefined &&
    inbound.header("access-control-request-method") !== undefined
  );
}

/** Let the scripts that the API's developer allows read the reply, whatever it is. Never with cookies. */
export function markCors(inbound: Inbound, cors: CorsRule | null): boolean {
  if (cors === null) {
    return false;
  }
  if (!cors.isAny) {
    // Also without Origin, so that a cache keeps the variants apart.
    inbound.setHeader("vary", "origin");
  }
  const origin = inbound.header("origin");
  if (origin === undefined || !(cors.isAny || cors.allows(origin))) {
    return false;
  }
  inbound.setHeader("access-control-allow-origin", cors.isAny ? "*" : origin);
  inbound.setHeader("access-control-expose-headers", exposedHeaders);
  return true;
}

const named = /^[\w!#$%&'*+.^`|~, -]{1,1000}$/;

/** Answer a browser's question in the upstream's place. Of an API that no browser may call it hears nothing. */
export function answerPreflight(inbound: Inbound, cors: CorsRule | null): void {
  if (markCors(inbound, cors)) {
    const method = inbound.header("access-control-request-method") ?? "";
    const headers = inbound.header("access-control-request-headers") ?? "";
    if (/^[A-Z]{1,20}$/.test(method)) {
      inbound.setHeader("access-control-allow-methods", method);
    }
    if (named.test(headers)) {
      inbound.setHeader("access-control-allow-headers", headers);
    }
    inbound.setHeader("access-control-max-age", String(maxAgeSeconds));
  }
  inbound.reply(204, [], undefined);
}
