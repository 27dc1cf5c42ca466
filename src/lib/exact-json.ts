/** A number of a JSON text, as it stands there: all its digits, and how they were written. */
export interface NumberLiteral {
  readonly rawJSON: string;
}

// Node 24 has them, the types do not know it yet.
const exact = JSON as unknown as {
  rawJSON(text: string): NumberLiteral;
  isRawJSON(value: unknown): value is NumberLiteral;
  parse(
    text: string,
    reviver: (key: string, value: unknown, context: { source: string }) => unknown,
  ): unknown;
};

/**
 * Parse a JSON text with its numbers as literals, which JSON.stringify() writes as they came. Throws SyntaxError when it
 * is no JSON, or its lists and objects lie deeper in each other than `depthMax`.
 */
export function parseExactJson(text: string, { depthMax }: { depthMax: number }): unknown {
  // Before it is parsed: what is parsed is walked through by recursion.
  if (jsonDepth(text) > depthMax) {
    throw new SyntaxError(`Cannot read JSON: it is deeper than ${depthMax} levels`);
  }
  return exact.parse(text, (_key, value, { source }) =>
    typeof value === "number" ? exact.rawJSON(source) : value,
  );
}

/** Whether a value of parseExactJson() is a number. */
export function isNumberLiteral(value: unknown): value is NumberLiteral {
  return exact.isRawJSON(value);
}

const quote = 0x22;
const backslash = 0x5c;

/** How deep lists and objects lie in each other. Of a text that is no JSON it says nothing. */
export function jsonDepth(text: string): number {
  let depth = 0;
  let deepest = 0;
  let isQuoted = false;
  for (let index = 0; index < text.length; index++) {
    const code = text.charCodeAt(index);
    if (code === quote) {
      isQuoted = !isQuoted;
    } else if (isQuoted) {
      index += code === backslash ? 1 : 0;
    } else if (code === 0x7b || code === 0x5b) {
      depth += 1;
      deepest = Math.max(deepest, depth);
    } else if (code === 0x7d || code === 0x5d) {
      depth -= 1;
    }
  }
  return deepest;
}
