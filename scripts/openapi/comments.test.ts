import { expect, test } from "vitest";
import { joinTexts, splitSummary } from "./comments.ts";

test.for([
  [
    "Get one key. A key of another account is not found.",
    "Get one key",
    "A key of another account is not found.",
  ],
  ["List keys.", "List keys", ""],
  ["Start a run: reserve, and pay.\n\nFAILED.", "Start a run: reserve, and pay", "FAILED."],
  [
    "Post to `api.example.com` e.g. twice. Then stop.",
    "Post to `api.example.com` e.g. twice",
    "Then stop.",
  ],
  ["Is it up? Yes.", "Is it up?", "Yes."],
  ["No stop", "No stop", ""],
  ["No stop\n\nBut more", "No stop", "But more"],
  ["", "", ""],
] as const)("splitSummary of %o is the first sentence", ([comment, summary, rest]) => {
  expect(splitSummary(comment)).toEqual({ summary, rest });
});

test("joinTexts leaves out what is empty", () => {
  expect(joinTexts(["a.", "", "b."])).toBe("a. b.");
});
