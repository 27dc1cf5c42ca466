/** One step of a path template. A literal is percent-decoded. */
export type Segment =
  | { readonly kind: "literal"; readonly value: string }
  | { readonly kind: "star" }
  | { readonly kind: "doubleStar" };

/** A variable and the segments that it captures, `start` inclusive, `end` exclusive. */
export interface Variable {
  readonly fieldPath: readonly string[];
  readonly start: number;
  readonly end: number;
  /** Whether it may hold "/": such a value keeps `%2F` as it was sent. */
  readonly multiSegment: boolean;
}

/** A parsed `google.api.http` path template. The variables' own segments stand in `segments`. */
export interface Template {
  readonly text: string;
  readonly segments: readonly Segment[];
  readonly variables: readonly Variable[];
  /** What follows the ":" after the last segment, percent-decoded. */
  readonly verb: string | undefined;
}

/** A template that does not follow the grammar. */
export class TemplateError extends Error {
  override readonly name = "TemplateError";
  /** Where in the template, from 0. */
  readonly position: number;
  readonly reason: string;

  constructor(text: string, position: number, reason: string) {
    super(`Cannot parse template "${text}" at ${position}: ${reason}`);
    this.position = position;
    this.reason = reason;
  }
}

const templateLengthMax = 1024;
const verbLengthMax = 64;

/**
 * Parse a path template.
 *
 *     Template = "/" | "/" Segments [ Verb ]      Segments = Segment { "/" Segment }
 *     Segment = "*" | "**" | LITERAL | Variable   Variable = "{" FieldPath [ "=" Segments ] "}"
 *     FieldPath = IDENT { "." IDENT }             Verb = ":" LITERAL
 *
 * Stricter than the grammar where it would leave a path ambiguous: at most one `**`, only literals
 * after it, no variable twice, none within another. Wider in one point: a verb may hold colons.
 * Throws TemplateError.
 */
export function parseTemplate(text: string): Template {
  const state: State = { text, position: 0, segments: [], variables: [] };
  if (text.length > templateLengthMax) {
    throw fail(state, `is longer than ${templateLengthMax} characters`, 0);
  }
  expect(state, "/");
  if (state.position === text.length) {
    return { text, segments: [], variables: [], verb: undefined };
  }
  parseSegments(state, false);
  const verb = parseVerb(state);
  if (state.position < text.length) {
    throw fail(state, `unexpected "${text.charAt(state.position)}"`);
  }
  return { text, segments: state.segments, variables: state.variables, verb };
}

interface State {
  readonly text: string;
  position: number;
  readonly segments: Segment[];
  readonly variables: Variable[];
}

function parseSegments(state: State, inVariable: boolean): void {
  parseSegment(state, inVariable);
  while (state.text[state.position] === "/") {
    state.position++;
    parseSegment(state, inVariable);
  }
}

function parseSegment(state: State, inVariable: boolean): void {
  const { text, position } = state;
  switch (text[position]) {
    case "{":
      if (inVariable) {
        throw fail(state, "a variable cannot stand within another");
      }
      parseVariable(state);
      return;
    case "*":
      parseWildcard(state);
      return;
    default: {
      const literal = scan(state, /[-A-Za-z0-9._~!$&'()+,;=@%]*/y);
      if (literal === "") {
        throw fail(state, describeMissing(text[position]));
      }
      state.segments.push({ kind: "literal", value: decodeLiteral(state, literal, position) });
    }
  }
}

function parseWildcard(state: State): void {
  const stars = scan(state, /\*+/y).length;
  const position = state.position - stars;
  if (stars > 2) {
    throw fail(state, `"${"*".repeat(stars)}" is not a wildcard`, position);
  }
  if (state.segments.some((segment) => segment.kind === "doubleStar")) {
    throw fail(state, `no wildcard may follow "**"`, position);
  }
  state.segments.push({ kind: stars === 2 ? "doubleStar" : "star" });
}

function parseVariable(state: State): void {
  const opened = state.position;
  expect(state, "{");
  const fieldPath = parseFieldPath(state);
  if (state.variables.some((variable) => variable.fieldPath.join(".") === fieldPath.join("."))) {
    throw fail(state, `variable "${fieldPath.join(".")}" stands here twice`, opened + 1);
  }
  const start = state.segments.length;
  if (state.text[state.position] === "=") {
    state.position++;
    parseSegments(state, true);
  } else {
    if (state.segments.some((segment) => segment.kind === "doubleStar")) {
      throw fail(state, `no wildcard may follow "**"`, opened);
    }
    state.segments.push({ kind: "star" });
  }
  expect(state, "}");
  const end = state.segments.length;
  const multiSegment = end - start > 1 || state.segments[start]?.kind === "doubleStar";
  state.variables.push({ fieldPath, start, end, multiSegment });
}

function parseFieldPath(state: State): string[] {
  const names: string[] = [];
  for (;;) {
    const name = scan(state, /(?:[A-Za-z_][A-Za-z0-9_]*)?/y);
    if (name === "") {
      throw fail(state, "expected a field name");
    }
    names.push(name);
    if (state.text[state.position] !== ".") {
      return names;
    }
    state.position++;
  }
}

// An escaped colon is data wherever it stands, and so has no place in a verb.
function parseVerb(state: State): string | undefined {
  if (state.text[state.position] !== ":") {
    return undefined;
  }
  const parts: string[] = [];
  do {
    const position = ++state.position;
    const part = scan(state, /[-A-Za-z0-9._~!$&'()+,;=@%]*/y);
    if (part === "") {
      throw fail(state, "expected a verb");
    }
    const decoded = decodeLiteral(state, part, position);
    if (decoded.includes(":")) {
      throw fail(state, "a verb cannot hold an escaped colon", position);
    }
    parts.push(decoded);
  } while (state.text[state.position] === ":");
  const verb = parts.join(":");
  if (verb.length > verbLengthMax) {
    throw fail(state, `a verb is longer than ${verbLengthMax} characters`);
  }
  return verb;
}

function decodeLiteral(state: State, literal: string, position: number): string {
  try {
    return decodeURIComponent(literal);
  } catch {
    throw fail(state, `"${literal}" holds a percent escape that is broken or not UTF-8`, position);
  }
}

function scan(state: State, pattern: RegExp): string {
  pattern.lastIndex = state.position;
  const found = pattern.exec(state.text)?.[0] ?? "";
  state.position += found.length;
  return found;
}

function expect(state: State, character: string): void {
  if (state.text[state.position] !== character) {
    throw fail(state, `expected "${character}"`);
  }
  state.position++;
}

function describeMissing(found: string | undefined): string {
  if (found === undefined || found === "/" || found === "}" || found === ":") {
    return "a segment is empty";
  }
  return `unexpected "${found}"`;
}

function fail(state: State, reason: string, position = state.position): TemplateError {
  return new TemplateError(state.text, position, reason);
}
