/** A fenced block of a Markdown page. */
export interface Block {
  language: string;
  text: string;
  /** What the page shows as its output: the JSON or text block right behind it. */
  output: { language: "json" | "text"; text: string } | undefined;
}

/** The fenced blocks of a page, in order. */
export function blocksOf(page: string): Block[] {
  const found = [...page.matchAll(/^```(\w+)\n([\s\S]*?)^```$/gm)];
  return found.map((match, index) => {
    const [whole, language = "", text = ""] = match;
    const next = found[index + 1];
    const isBehind =
      next !== undefined && page.slice(match.index + whole.length, next.index).trim() === "";
    const shown = isBehind ? next[1] : undefined;
    const output =
      shown === "json" || shown === "text" ? { language: shown, text: next?.[2] ?? "" } : undefined;
    return { language, text, output: output as Block["output"] };
  });
}

/** The cells of the rows of all tables whose first heading is the given one, without backticks. */
export function rowsOf(page: string, heading: string): string[][] {
  const tables = page.matchAll(/^\|.*\|\n\| ?---[-| ]*\n((?:\|.*\|\n)+)/gm);
  return [...tables]
    .filter(([table]) => cellsOf(table.split("\n")[0] ?? "")[0] === heading)
    .flatMap(([, rows = ""]) => rows.trimEnd().split("\n").map(cellsOf));
}

function cellsOf(row: string): string[] {
  return row
    .split("|")
    .slice(1, -1)
    .map((cell) => cell.trim().replace(/^`(.*)`$/, "$1"));
}

/** The relative links of a page, and the paths of the project that it names in backticks. */
export function pathsOf(page: string): string[] {
  const prose = page.replace(/^ *```[\s\S]*?^ *```$/gm, "");
  const links = [...prose.matchAll(/\]\((?!https?:)([^)#\s]+)(?:#[^)]*)?\)/g)];
  const named = [
    ...prose.matchAll(
      /`((?:bin|deploy|docs|gen|migrations|proto|scripts|src|test|web)\/[\w./-]*)`/g,
    ),
  ];
  return [...links, ...named].map(([, path = ""]) => path);
}

/** Whether a value is the one shown, where `…` in a shown string stands for any text. */
export function isShown(value: unknown, shown: unknown): boolean {
  if (typeof shown === "string") {
    return typeof value === "string" && patternOf(shown).test(value);
  }
  if (typeof shown !== "object" || shown === null) {
    return value === shown;
  }
  if (
    typeof value !== "object" ||
    value === null ||
    Array.isArray(value) !== Array.isArray(shown)
  ) {
    return false;
  }
  const keys = new Set([...Object.keys(value), ...Object.keys(shown)]);
  return [...keys].every((key) =>
    isShown((value as Record<string, unknown>)[key], (shown as Record<string, unknown>)[key]),
  );
}

function patternOf(shown: string): RegExp {
  const parts = shown.split("…").map((part) => part.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&"));
  return new RegExp(`^${parts.join("[\\s\\S]*")}$`);
}
