import { inspect, isDeepStrictEqual } from "node:util";

/** Where the demo prints. Colours only for a terminal. */
export interface Output {
  write(text: string): unknown;
  isTTY?: boolean | undefined;
}

/** Something came that was not expected. */
export class Mismatch extends Error {
  override readonly name = "Mismatch";

  constructor(what: string, { expected, got }: { expected: string; got: string }) {
    super(`${what}: expected ${expected}, got ${got}`);
  }
}

/** Prints the steps of a run, one line each. */
export interface Report {
  /** Do a step, and print what came of it. A failed one is printed as such, and thrown on. */
  step<T>(title: string, work: () => Promise<T>, fact: (value: T) => string): Promise<T>;
  /** Print a line that says whether something holds. */
  mark(ok: boolean, text: string): void;
  /** Print a line. Empty: a blank one. */
  line(text: string): void;
}

/** Print to `out`. */
export function createReport(out: Output): Report {
  const colour = (code: number, text: string) =>
    out.isTTY === true ? `\x1b[${code}m${text}\x1b[0m` : text;
  const line = (text: string) => void out.write(`${text}\n`);
  const mark = (ok: boolean, text: string) =>
    line(`${ok ? colour(32, "✓") : colour(31, "✗")} ${text}`);
  return {
    line,
    mark,
    async step(title, work, fact) {
      const begun = performance.now();
      try {
        const value = await work();
        mark(true, `${title}: ${fact(value)} (${msSince(begun)} ms)`);
        return value;
      } catch (error) {
        const reason = reasonOf(error);
        const text = error instanceof Mismatch ? reason : `expected it to be done, got: ${reason}`;
        mark(false, `${title}: ${text} (${msSince(begun)} ms)`);
        throw new StepError({ cause: error });
      }
    },
  };
}

/** A step failed, and its line says why. */
export class StepError extends Error {
  override readonly name = "StepError";

  constructor(options: { cause: unknown }) {
    super("a step failed", options);
  }
}

/** Throw Mismatch unless the two are deeply the same. */
export function expectSame<T>(what: string, got: T, expected: T): void {
  if (!isDeepStrictEqual(got, expected)) {
    throw new Mismatch(what, { expected: shown(expected), got: shown(got) });
  }
}

/** The value, which an answer must have. */
export function present<T>(what: string, value: T | undefined): T {
  if (value === undefined) {
    throw new Mismatch(what, { expected: "a value", got: "none" });
  }
  return value;
}

const causesMax = 5;

/** What an error and its causes say, in one line. */
export function reasonOf(error: unknown): string {
  const texts: string[] = [];
  let next = error;
  while (next !== undefined && texts.length < causesMax) {
    texts.push(next instanceof Error ? next.message : String(next));
    next = next instanceof Error ? next.cause : undefined;
  }
  const line = texts.filter((text) => text !== "").join(": ");
  return line.replaceAll(/\s*\n\s*/g, " ");
}

function shown(value: unknown): string {
  return inspect(value, { breakLength: Number.POSITIVE_INFINITY, depth: 4 });
}

function msSince(begun: number): number {
  return Math.round(performance.now() - begun);
}
