import { canonicalNumber } from "./decimal.ts";
import { isNumberLiteral, parseExactJson } from "./exact-json.ts";

/** Where in a JSON value to look: names of members, places in lists. Places below zero count from the end. */
export type JsonPath = readonly (string | number)[];

/** What is found at a path: a text, a number as it is written, or a truth value. */
export interface Scalar {
  kind: "text" | "number" | "truth";
  text: string;
}

/** How deep lists and objects may lie in each other in data: a path leads no deeper. */
export const dataDepthMax = 16;

const namePattern = /^[ \t\n\r]*\.([A-Za-z_\u0080-\uFFFF][\w\u0080-\uFFFF]*)/;
const indexPattern = /^[ \t\n\r]*\[[ \t\n\r]*(0|-?[1-9]\d{0,8})[ \t\n\r]*\]/;
const quotedPattern =
  /^[ \t\n\r]*\[[ \t\n\r]*(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)")[ \t\n\r]*\]/s;

/**
 * Compile a JSONPath of RFC 9535 that leads to one place: `$`, then `.name`, `['name']`, `["name"]` or `[index]`, with
 * blanks between steps and within brackets. Null when it is none.
 */
export function compilePath(text: string): JsonPath | null {
  if (!text.startsWith("$")) {
    return null;
  }
  const steps: (string | number)[] = [];
  let rest = text.slice(1);
  while (rest !== "") {
    const found = readStep(rest);
    if (found === null || steps.length === dataDepthMax) {
      return null;
    }
    steps.push(found.step);
    rest = rest.slice(found.length);
  }
  return steps;
}

function readStep(text: string): { step: string | number; length: number } | null {
  const name = namePattern.exec(text);
  if (name?.[1] !== undefined) {
    return { step: name[1], length: name[0].length };
  }
  const index = indexPattern.exec(text);
  if (index?.[1] !== undefined) {
    return { step: Number(index[1]), length: index[0].length };
  }
  const quoted = quotedPattern.exec(text);
  const step = quoted === null ? null : unquote(quoted[1] ?? null, quoted[2] ?? "");
  return step === null ? null : { step, length: quoted?.[0].length ?? 0 };
}

/** The name within quotes. The escapes are those of JSON, and `\'` within single quotes. */
function unquote(single: string | null, double: string): string | null {
  const inner =
    single === null
      ? double
      : single.replace(/\\(.)|"/gs, (all, escaped) => {
          if (all === '"') {
            return '\\"';
          }
          return escaped === "'" ? "'" : escaped === '"' ? "\\?" : all;
        });
  try {
    const name: unknown = JSON.parse(`"${inner}"`);
    return typeof name === "string" ? name : null;
  } catch {
    return null;
  }
}

/** A number of which a float may lose digits: more than 15 of them, or an exponent. May also be within a text. */
const wideNumber = /[\d.]{16}|\d[eE][+\-\d]/;

/** Parse an event's data for findScalar. Undefined when it is no JSON that the door lets in. */
export function parseData(text: string): unknown {
  if (text === "") {
    return undefined;
  }
  try {
    // Literals cost five times the parsing, and only wide numbers need them.
    return wideNumber.test(text)
      ? parseExactJson(text, { depthMax: dataDepthMax })
      : JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** What stands at the path. Null for nothing, null, an object, a list, or a number of more than nine exponent digits. */
export function findScalar(data: unknown, path: JsonPath): Scalar | null {
  const value = findValue(data, path);
  switch (typeof value) {
    case "string":
      return { kind: "text", text: value };
    case "boolean":
      return { kind: "truth", text: String(value) };
    case "number":
      return numberOf(String(value));
    default:
      return isNumberLiteral(value) ? numberOf(value.rawJSON) : null;
  }
}

/** Whatever stands at the path. Undefined: nothing. */
export function findValue(data: unknown, path: JsonPath): unknown {
  let value = data;
  for (const step of path) {
    value = follow(value, step);
  }
  return value;
}

function follow(value: unknown, step: string | number): unknown {
  if (Array.isArray(value)) {
    return typeof step === "number" ? value.at(step) : undefined;
  }
  if (typeof value !== "object" || value === null || isNumberLiteral(value)) {
    return undefined;
  }
  const isThere = typeof step === "string" && Object.hasOwn(value, step);
  return isThere ? (value as Record<string, unknown>)[step] : undefined;
}

function numberOf(written: string): Scalar | null {
  const text = canonicalNumber(written);
  return text === null ? null : { kind: "number", text };
}
