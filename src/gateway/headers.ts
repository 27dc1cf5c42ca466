import type { IncomingHttpHeaders } from "node:http";
import { singleHeaders } from "../lib/single-headers.ts";

/** What a reply's header may hold: several values are as many headers. */
export type HeaderValue = string | readonly string[];

/** Headers that end at each hop. */
const hopByHop = [
  "connection",
  "http2-settings",
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
  "x-client-ip",
  "x-cluster-client-ip",
  "true-client-ip",
  "cf-connecting-ip",
  "fastly-client-ip",
  "x-request-id",
  "traceparent",
  "tracestate",
  "baggage",
  // With them a call of one route would be served as one of another, which has another price.
  "x-http-method",
  "x-http-method-override",
  "x-method-override",
  "x-original-method",
  "x-original-url",
  "x-rewrite-url",
]);

/**
 * What a client says of itself where only we may, and what an upgrade would need. And names with `_`, which many servers
 * read as `-`: they would pass for what is dropped.
 */
const claims = /^(?::|x-forwarded-|x-callora-|sec-websocket-)|_/;

/** What an upstream answers that would act on our own origin, or that we say ourselves. */
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
  "location",
  "refresh",
  "content-security-policy",
  "x-content-type-options",
  "x-request-id",
  "server-timing",
]);

/** What this server says of a call itself: an upstream must not say it in its place. */
const notFromUpstream = /^(?:access-control|x-callora|x-ratelimit)-/;

const joined = new Set(["content-encoding", "content-language"]);

/** What an upstream gets besides what the consumer sent. */
export interface UpstreamExtra {
  /** The consumer's Connection header: what it names ends here. */
  connection: string | undefined;
  /** Names, in lower case, of what is not to be passed on besides. */
  dropped: readonly string[];
}

/** Passes headers on, in both directions. Remembers what it decided of a name. */
export interface HeaderFilter {
  /** Names and values by turns, as sent; without credentials, hops and claims about the client. */
  toUpstream(raw: readonly string[], extra: UpstreamExtra): string[];
  /** Names and values by turns, without what would act on our origin, or lead the consumer away. */
  toConsumer(headers: IncomingHttpHeaders): HeaderValue[];
}

/** Names whose verdict is remembered. */
const namesMax = 2_000;

/** Make the filter. */
export function createHeaderFilter(): HeaderFilter {
  // Empty: it is dropped. Names are spelled in few ways, and lower case costs more than a look-up.
  const kept = new Map<string, string>();
  const answered = new Map<string, boolean>();
  const nameFor = (sent: string): string => {
    const lower = sent.toLowerCase();
    const name = claims.test(lower) || notForUpstream.has(lower) ? "" : lower;
    return remember(kept, sent, name);
  };
  const isAnswered = (name: string): boolean =>
    remember(answered, name, !notFromUpstream.test(name) && !notForConsumer.has(name));
  return {
    toUpstream(raw, { connection, dropped }) {
      const named = connectionNamed(connection);
      const headers: string[] = [];
      for (let index = 0; index < raw.length; index += 2) {
        const sent = raw[index] ?? "";
        const name = kept.get(sent) ?? nameFor(sent);
        if (name !== "" && !named.includes(name) && !dropped.includes(name)) {
          headers.push(name, raw[index + 1] ?? "");
        }
      }
      return headers;
    },
    toConsumer(headers) {
      const named = connectionNamed(headers.connection);
      const reply: HeaderValue[] = [];
      for (const name in headers) {
        const value = headers[name];
        if (
          value !== undefined &&
          (answered.get(name) ?? isAnswered(name)) &&
          !named.includes(name)
        ) {
          reply.push(name, typeof value === "string" ? value : united(name, value));
        }
      }
      // A hostile upstream shares our origin: nothing it sends may run as a page of ours. The edge says `nosniff`.
      reply.push("content-security-policy", "sandbox");
      return reply;
    },
  };
}

function remember<V>(verdicts: Map<string, V>, name: string, verdict: V): V {
  if (verdicts.size < namesMax) {
    verdicts.set(name, verdict);
  }
  return verdict;
}

function united(name: string, values: readonly string[]): HeaderValue {
  if (singleHeaders.has(name)) {
    return values[0] ?? "";
  }
  return joined.has(name) ? values.join(", ") : values;
}

const none: readonly string[] = [];

/** Headers that the sender's `Connection` header makes hop-by-hop. */
function connectionNamed(value: string | readonly string[] | undefined): readonly string[] {
  if (value === undefined || value === "keep-alive" || value === "close") {
    return none;
  }
  return String(value)
    .split(",")
    .map((name) => name.trim().toLowerCase());
}
