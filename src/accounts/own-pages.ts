import type { HeaderReader } from "../rpc/call.ts";

/**
 * Whether a page that may act for its visitor sent the request, as far as the browser says so. Undefined: the
 * request does not say where it comes from, as those of programs.
 *
 * `Sec-Fetch-Site` alone is enough where there is no `Origin`: browsers leave that out of GETs to the page's own
 * origin. `none` is an address that a person typed: nobody's page.
 */
export function isFromOwnPage(
  header: HeaderReader,
  origins: ReadonlySet<string>,
): boolean | undefined {
  const origin = header.get("origin");
  if (origin !== null) {
    return origins.has(origin);
  }
  const site = header.get("sec-fetch-site");
  return site === null ? undefined : site === "same-origin";
}

/** Whether the body is JSON of some kind, by its Content-Type. */
export function isJson(header: HeaderReader): boolean {
  const type = header.get("content-type")?.split(";", 1)[0]?.trim().toLowerCase() ?? "";
  return /^application\/(?:[\w.-]+\+)?json$/.test(type);
}
