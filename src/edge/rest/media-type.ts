import { HttpError } from "./errors.ts";

/** What a client accepts: JSON, JSON with errors as RFC 9457 problems, or neither. */
export type Accepted = "json" | "problem" | "none";

/**
 * Check that a request's Content-Type is `application/json`, in UTF-8 if it names a charset. A
 * missing one counts as JSON, unless the request has a cookie: a page of another site can have a
 * browser send such a request without asking. Throws HttpError 415.
 */
export function requireJson(
  contentType: string | undefined,
  { hasCookie = false }: { hasCookie?: boolean } = {},
): void {
  if (contentType === "application/json") {
    return;
  }
  if (!hasCookie && (contentType === undefined || contentType === "")) {
    return;
  }
  requireUtf8(parseMediaType(contentType ?? ""), ["application/json"]);
}

/** How a body holds several messages: the elements of a JSON array, or a JSON value a line. */
export type MessagesFormat = "array" | "lines";

/** The format of a request's messages by its Content-Type. The rules are those of requireJson(). */
export function messagesFormatOf(
  contentType: string | undefined,
  { hasCookie = false }: { hasCookie?: boolean } = {},
): MessagesFormat {
  if (!hasCookie && (contentType === undefined || contentType === "")) {
    return "array";
  }
  const found = parseMediaType(contentType ?? "");
  requireUtf8(found, ["application/json", ...lineTypes]);
  return found?.type === "application/json" ? "array" : "lines";
}

function requireUtf8(found: MediaType | undefined, types: readonly string[]): void {
  if (found === undefined || !types.includes(found.type)) {
    const message = `Cannot read body: Content-Type must be ${types.slice(0, 2).join(" or ")}`;
    throw new HttpError(415, message, jsonHint);
  }
  const charset = found.parameters.get("charset")?.toLowerCase() ?? "utf-8";
  if (charset !== "utf-8" && charset !== "utf8") {
    throw new HttpError(415, "Cannot read body: charset must be utf-8", jsonHint);
  }
}

const lineTypes = ["application/x-ndjson", "application/jsonl"];
const jsonHint = { accept: "application/json" };

/**
 * Choose the form of replies from an Accept header. Problems are for clients that name
 * `application/problem+json` themselves and do not prefer `application/json` over it; their
 * successes are plain JSON. Of ranges that cover JSON the most specific decides, as in RFC 9110.
 */
export function negotiate(accept: string | undefined): Accepted {
  if (accept === undefined || accept.trim() === "") {
    return "json";
  }
  const qualities = readAccept(accept);
  const json =
    qualities.get("application/json") ?? qualities.get("application/*") ?? qualities.get("*/*");
  const problem = qualities.get("application/problem+json") ?? 0;
  const named = qualities.get("application/json") ?? 0;
  if (problem > 0 && problem >= named) {
    return "problem";
  }
  return json !== undefined && json > 0 ? "json" : "none";
}

/** How a stream of messages is written: a JSON value a line, a JSON array, or server-sent events. */
export type StreamFormat = "lines" | "array" | "events";

// In the order of preference among those that a client names alike.
const streamTypes: readonly (readonly [string, StreamFormat])[] = [
  ["text/event-stream", "events"],
  ["application/x-ndjson", "lines"],
  ["application/jsonl", "lines"],
  ["application/json", "array"],
];

/**
 * Choose the format of a stream from an Accept header. Lines for clients without a preference. "none"
 * for clients that accept none of the formats.
 */
export function negotiateStream(accept: string | undefined): StreamFormat | "none" {
  const qualities = readAccept(accept ?? "");
  // It shapes errors alone.
  qualities.delete("application/problem+json");
  if (qualities.size === 0) {
    return "lines";
  }
  let chosen: StreamFormat | "none" = "none";
  let best = 0;
  for (const [type, format] of streamTypes) {
    const quality = qualities.get(type) ?? 0;
    if (quality > best) {
      best = quality;
      chosen = format;
    }
  }
  const any = qualities.get("application/*") ?? qualities.get("*/*") ?? 0;
  return any > best && !isRefused(qualities) ? "lines" : chosen;
}

function isRefused(qualities: ReadonlyMap<string, number>): boolean {
  return lineTypes.some((type) => qualities.get(type) === 0);
}

// Of the same range given twice, the higher quality counts. Malformed elements are skipped.
function readAccept(accept: string): Map<string, number> {
  const qualities = new Map<string, number>();
  for (const element of splitOutsideQuotes(accept, ",")) {
    const range = parseMediaType(element);
    const q = range?.parameters.get("q") ?? "1";
    if (range !== undefined && /^(?:0(?:\.\d{0,3})?|1(?:\.0{0,3})?)$/.test(q)) {
      qualities.set(range.type, Math.max(Number(q), qualities.get(range.type) ?? 0));
    }
  }
  return qualities;
}

interface MediaType {
  /** Lower-case. */
  readonly type: string;
  /** Names in lower case, values as sent without quotes. */
  readonly parameters: ReadonlyMap<string, string>;
}

const token = "[-!#$%&'*+.^_`|~0-9A-Za-z]+";
const typePattern = new RegExp(`^${token}/${token}$`);
const parameterPattern = new RegExp(`^(${token})=(?:(${token})|"((?:[^"\\\\]|\\\\.)*)")$`);

function parseMediaType(text: string): MediaType | undefined {
  const [first = "", ...rest] = splitOutsideQuotes(text, ";").map((part) => part.trim());
  if (!typePattern.test(first)) {
    return undefined;
  }
  const parameters = new Map<string, string>();
  for (const part of rest) {
    if (part === "") {
      continue;
    }
    const [, name, bare, quoted = ""] = parameterPattern.exec(part) ?? [];
    if (name === undefined) {
      return undefined;
    }
    parameters.set(name.toLowerCase(), bare ?? quoted.replace(/\\(.)/g, "$1"));
  }
  return { type: first.toLowerCase(), parameters };
}

function splitOutsideQuotes(text: string, separator: string): string[] {
  if (!text.includes('"')) {
    return text.split(separator);
  }
  const parts: string[] = [];
  let start = 0;
  let quoted = false;
  for (let index = 0; index < text.length; index++) {
    const character = text[index];
    if (character === "\\" && quoted) {
      index++;
    } else if (character === '"') {
      quoted = !quoted;
    } else if (character === separator && !quoted) {
      parts.push(text.slice(start, index));
      start = index + 1;
    }
  }
  parts.push(text.slice(start));
  return parts;
}
