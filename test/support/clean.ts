import { expect } from "vitest";

/** Expect of an answer: no stack, no SQL, no file, nothing of what the server stands on. */
export function expectClean(text: string): void {
  expect(text).not.toMatch(
    /(?:\n|\\n)\s*at |:\d+:\d+\)|\.ts\b|node_modules|\bnode:|slonik|postgres|\bpg_|select .* from|insert into|callora_(?:app|worker)|violates|syntax error/i,
  );
}
