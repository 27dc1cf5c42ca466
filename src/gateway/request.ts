import { context, propagation, trace } from "@opentelemetry/api";
import type { Admission } from "./admission.ts";

/** The headers for the upstream, names and values by turns. `credential` may be empty: then there is none. */
export function requestHeaders(admission: Admission, credential: string): string[] {
  const { deps, inbound, passing, api, price } = admission;
  const { exchange } = passing.call;
  const own = api.credential?.header;
  const source = price.rule?.source ?? null;
  const dropped: string[] = own === undefined ? [] : [own];
  // Units can be read only from a body that is not compressed.
  const readsBody = source !== null && "path" in source;
  if (readsBody) {
    dropped.push("accept-encoding");
  }
  const connection = inbound.header("connection");
  const headers = deps.filter.toUpstream(inbound.rawHeaders, { connection, dropped });
  headers.push("x-request-id", exchange.requestId, "x-forwarded-for", exchange.clientIp);
  headers.push("x-forwarded-proto", exchange.isSecure ? "https" : "http");
  if (inbound.authority !== undefined) {
    headers.push("x-forwarded-host", inbound.authority);
  }
  if (readsBody) {
    headers.push("accept-encoding", "identity");
  }
  if (own !== undefined && credential !== "") {
    headers.push(own, credential);
  }
  if (trace.getActiveSpan() !== undefined) {
    const carrier: Record<string, string> = {};
    propagation.inject(context.active(), carrier);
    for (const name in carrier) {
      headers.push(name, carrier[name] ?? "");
    }
  }
  return headers;
}
