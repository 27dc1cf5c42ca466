/** Whether a text can be the id or the slug of an API. */
export function isApiName(text: string): boolean {
  return /^[a-z0-9_-]{1,63}$/.test(text);
}

/** How an endpoint is named in analytics. Long or numbered path segments are not told apart. */
export function endpointName(method: string, path: string): string {
  const segments = path
    .split("/")
    .filter((segment) => segment !== "")
    .slice(0, 6)
    .map((segment) => (/^[A-Za-z][A-Za-z._-]{0,31}$|^v\d{1,3}$/.test(segment) ? segment : "*"));
  return `${method} /${segments.join("/")}`;
}

/**
 * The upstream address of a call: the base with the rest of the path appended as it was sent.
 *
 * Null when the path has dot segments, in any spelling: they would lead out of the base. So it has with control
 * characters: a URL drops tabs and line ends, which would join what stands around them.
 */
export function upstreamUrl(base: string, rawRest: string, query: string): URL | null {
  if (controlCharacter.test(rawRest) || rawRest.split(/[/\\]/).some(isDotSegment)) {
    return null;
  }
  const url = new URL(base);
  const prefix = url.pathname.replace(/\/+$/, "");
  url.pathname = `${prefix}/${rawRest}`;
  url.search = query;
  return url;
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
const controlCharacter = /[\0-\x1f\x7f]/;

/**
 * An encoded slash may be decoded by the upstream: what stands on either side of it counts as a segment. Some
 * servers cut parameters off, so that `..;x` is `..` to them.
 */
function isDotSegment(segment: string): boolean {
  return segment
    .replace(/%2e/gi, ".")
    .split(/%2f|%5c|%3b|;/i)
    .some((part) => part === "." || part === "..");
}

/** What follows `/v1/call/{api}/` in a request target, still encoded, and the query. */
export function splitCallTarget(target: string): { rest: string; query: string } {
  const mark = target.indexOf("?");
  const path = mark === -1 ? target : target.slice(0, mark);
  const query = mark === -1 ? "" : target.slice(mark + 1);
  const origin = /^https?:\/\/[^/]+/.exec(path)?.[0] ?? "";
  return { rest: path.slice(origin.length).split("/").slice(4).join("/"), query };
}
