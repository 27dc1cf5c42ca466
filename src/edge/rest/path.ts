/** A path or query that cannot be percent-decoded. */
export class PathError extends Error {
  override readonly name = "PathError";
}

/** A request target cut in two; both parts as they were sent. */
export interface Target {
  readonly path: string;
  /** Without the "?". Empty if there is none. */
  readonly query: string;
}

/**
 * Cut a request target into path and query. Takes the absolute form (`http://host/path`) as well.
 */
export function splitTarget(target: string): Target {
  const start = pathStart(target);
  const mark = target.indexOf("?", start);
  if (mark < 0) {
    return { path: target.slice(start) || "/", query: "" };
  }
  return { path: target.slice(start, mark) || "/", query: target.slice(mark + 1) };
}

function pathStart(target: string): number {
  if (target.startsWith("/")) {
    return 0;
  }
  const scheme = /^https?:\/\//i.exec(target)?.[0];
  if (scheme === undefined) {
    return 0;
  }
  const end = target.slice(scheme.length).search(/[/?]/);
  return end < 0 ? target.length : scheme.length + end;
}

/** Decode every percent escape. Throws PathError if one is broken or the result is not UTF-8. */
export function decodeSegment(raw: string): string {
  if (plain.test(raw)) {
    return raw;
  }
  checkAscii(raw);
  return decode(raw);
}

/**
 * Decode a value of several segments: every percent escape but `%2F`, which stays as it was sent,
 * so that a "/" within a segment is not taken for one between segments. Throws PathError.
 */
export function decodeSegments(raw: string): string {
  if (plain.test(raw)) {
    return raw;
  }
  checkAscii(raw);
  const parts = raw.split(/(%2f)/i);
  return parts.map((part, index) => (index % 2 === 1 ? part : decode(part))).join("");
}

/** Visible ASCII without escapes. */
const plain = /^[!-$&-~]*$/;

function decode(raw: string): string {
  try {
    return decodeURIComponent(raw);
  } catch {
    const broken = /%(?![0-9A-Fa-f]{2})/.test(raw);
    throw new PathError(broken ? "has a broken percent escape" : "is not UTF-8");
  }
}

// Node hands over raw bytes above 0x7f as latin1 characters: what the client meant is unknown.
function checkAscii(raw: string): void {
  if (!/^[\x21-\x7e]*$/.test(raw)) {
    throw new PathError("holds a character that must be percent-encoded");
  }
}
