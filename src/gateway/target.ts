/** Whether a text can be the id or the slug of an API. */
export function isApiName(text: string): boolean {
  return /^[a-z0-9_-]{1,63}$/.test(text);
}

/** The methods that calls may have: those that routes know. */
export const callMethods: readonly string[] = [
  "GET",
  "HEAD",
  "POST",
  "PUT",
  "PATCH",
  "DELETE",
  "OPTIONS",
  "QUERY",
];

/** How an endpoint is named in analytics. Long or numbered path segments are not told apart. */
export function endpointName(method: string, path: string): string {
  let name = `${method} /`;
  let at = 0;
  for (let count = 0; count < segmentsMax && at < path.length; ) {
    const slash = path.indexOf("/", at);
    const end = slash < 0 ? path.length : slash;
    if (end > at) {
      const segment = path.slice(at, end);
      name += (count === 0 ? "" : "/") + (named.test(segment) ? segment : "*");
      count += 1;
    }
    at = end + 1;
  }
  return name;
}

/** Of an endpoint's name. */
const segmentsMax = 6;
const named = /^[A-Za-z][A-Za-z._-]{0,31}$|^v\d{1,3}$/;

/**
 * Whether a call's path can be appended to an upstream's base as it was sent.
 *
 * Not with dot segments, in any spelling: they would lead out of the base. Nor with control characters and spaces,
 * which would end the request's line, or with the mark of a fragment.
 */
export function isPassable(rawPath: string, query: string): boolean {
  if (unsendable.test(rawPath) || unsendable.test(query)) {
    return false;
  }
  return !suspicious.test(rawPath) || !rawPath.split(/[/\\]/).some(isDotSegment);
}

const unsendable = /[^\x21\x22\x24-\x7e\x80-\xff]/;
/** Without one of these a path has no dot segment. */
const suspicious = /\.|%2e/i;

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

/** What follows `/v1/call/{api}` in a request target without its query: still encoded, with its leading slash. */
export function pathOfTarget(target: string): string {
  let at = target.startsWith("/") ? 0 : (/^https?:\/\/[^/?]+/i.exec(target)?.[0].length ?? 0);
  const mark = target.indexOf("?", at);
  const end = mark < 0 ? target.length : mark;
  for (let slashes = 0; slashes < 3 && at >= 0; slashes++) {
    at = target.indexOf("/", at + 1);
  }
  return at < 0 || at >= end ? "/" : target.slice(at, end);
}
