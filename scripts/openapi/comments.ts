import type { AnyDesc, DescFile } from "@bufbuild/protobuf";
import { getComments } from "@bufbuild/protoplugin";

/** The comment before a declaration as Markdown, a paragraph a line. Empty if there is none. */
export function commentOf(desc: Exclude<AnyDesc, DescFile>): string {
  const lines = (getComments(desc).leading ?? "").split("\n").map((line) => line.replace(/^ /, ""));
  return lines
    .reduce((text, line) => text + (continues(text, line) ? " " : "\n") + line.trimEnd(), "")
    .replace(/\n{3,}/g, "\n\n")
    .trim();
}

/** The first sentence without its stop, and what follows it. */
export function splitSummary(comment: string): { summary: string; rest: string } {
  const end = /[.!?](?=\n|$|\s+[A-Z`"])/.exec(comment);
  if (end === null) {
    const [summary = "", ...rest] = comment.split("\n");
    return { summary, rest: rest.join("\n").trim() };
  }
  const mark = end[0] === "?" || end[0] === "!" ? 1 : 0;
  return {
    summary: comment.slice(0, end.index + mark),
    rest: comment.slice(end.index + 1).trim(),
  };
}

/** The texts that are not empty, one after the other. */
export function joinTexts(texts: readonly string[], separator = " "): string {
  return texts.filter((text) => text !== "").join(separator);
}

// A line within a paragraph, not the start of one, of a list item or of a code block.
function continues(text: string, line: string): boolean {
  return text !== "" && !text.endsWith("\n") && !/^(?:\s|[-*|]|\d+\.|$)/.test(line);
}
