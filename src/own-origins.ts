import { isIP } from "node:net";
import type { Config } from "./config.ts";

/** The server's own address as its pages and mails name it, without a slash at the end. */
export function ownUrl({ server }: Config, boundPort: number): string {
  const { publicUrl, tls, host } = server;
  return publicUrl ?? originOf(tls === undefined ? "http" : "https", shownHost(host), boundPort);
}

/**
 * The origins of the pages that may act for their visitors: the server's own, by all names of this machine when no
 * PUBLIC_URL says which, and those that CORS_ORIGINS names.
 */
export function ownOrigins(config: Config, boundPort: number): ReadonlySet<string> {
  const { publicUrl, tls, host, corsOrigins } = config.server;
  const named = corsOrigins.filter((origin) => origin !== "*");
  if (publicUrl !== undefined) {
    return new Set([publicUrl, ...named]);
  }
  const scheme = tls === undefined ? "http" : "https";
  const hosts = [shownHost(host), "localhost", "127.0.0.1", "::1"];
  return new Set([...hosts.map((one) => originOf(scheme, one, boundPort)), ...named]);
}

function originOf(scheme: string, host: string, port: number): string {
  // URL leaves out the port that the scheme stands for, as browsers do.
  return new URL(`${scheme}://${isIP(host) === 6 ? `[${host}]` : host}:${port}`).origin;
}

/** The host of an address that people open: what listens everywhere is here. */
export function shownHost(host: string): string {
  return ["127.0.0.1", "0.0.0.0", "::", "::1"].includes(host) ? "localhost" : host;
}
