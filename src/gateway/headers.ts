import type { IncomingHttpHeaders } from "node:http";

/** Headers that end at each hop. */
const hopByHop = [
  "connection",
  "keep-alive",
  "proxy-authenticate",
  "proxy-authorization",
  "proxy-connection",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
];

/** What a consumer sends that the upstream must not see, or must not believe. */
const notForUpstream = new Set([
  ...hopByHop,
  "host",
  "expect",
  "cookie",
  "authorization",
  "x-api-key",
  "x-user-id",
  "forwarded",
  "x-real-ip",
  "idempotency-key",
  "traceparent",
  "tracestate",
]);

/** What an upstream answers that would act on our own origin. */
const notForConsumer = new Set([
  ...hopByHop,
  "set-cookie",
  "set-cookie2",
  "set-login",
  "clear-site-data",
  "nel",
  "report-to",
  "reporting-endpoints",
  "accept-ch",
  "critical-ch",
  "public-key-pins",
  "alt-svc",
  "strict-transport-security",
  "service-worker-allowed",
  "content-security-policy",
  "x-request-id",
]);

/** What this server says of a call itself: an upstream must not say it in its place. */
const notFromUpstream = /^(?:access-control|x-callora|x-ratelimit)-/;

/** The headers for the upstream: the consumer's, without credentials, hops and claims about the client. */
export function upstreamHeaders(
  headers: IncomingHttpHeaders,
  extra: Record<string, string>,
): Record<string, string | string[]> {
  const dropped = connectionNamed(headers.connection);
  const kept: Record<string, string | string[]> = {};
  for (const [name, value] of Object.entries(headers)) {
    const isOurs = /^(?::|x-forwarded-|x-callora-)/.test(name) || notForUpstream.has(name);
    if (value !== undefined && !isOurs && !dropped.has(name)) {
      kept[name] = value;
    }
  }
  return { ...kept, ...extra };
}

/** The headers for the consumer: the upstream's, without what would act on our origin. */
export function consumerHeaders(headers: IncomingHttpHeaders): Record<string, string | string[]> {
  const dropped = connectionNamed(headers.connection);
  const kept: Record<string, string | string[]> = {};
  for (const [name, value] of Object.entries(headers)) {
    const isOurs = notFromUpstream.test(name) || notForConsumer.has(name);
    if (value !== undefined && !isOurs && !dropped.has(name)) {
      kept[name] = value;
    }
  }
  // A hostile upstream shares our origin: nothing it sends may run as a page of ours.
  return { ...kept, "x-content-type-options": "nosniff", "content-security-policy": "sandbox" };
}

/** Headers that the sender's `Connection` header makes hop-by-hop. */
function connectionNamed(value: string | undefined): Set<string> {
  return new Set((value ?? "").split(",").map((name) => name.trim().toLowerCase()));
}
