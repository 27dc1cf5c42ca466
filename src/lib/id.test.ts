import { expect, test } from "vitest";
import { isId, newId } from "./id.ts";

test("ids are well formed, unique, and sort by time", () => {
  const early = Array.from({ length: 1000 }, () => newId("key", new Date(1_000_000)));
  const late = newId("key", new Date(1_000_001));

  expect(new Set(early).size).toBe(1000);
  expect(early.every((id) => isId("key", id) && id < late)).toBe(true);
});

test.for(["", "key_", "key", "api_01k805gh12kgqtj91a5mt623s7", "key_01K805GH12KGQTJ91A5MT623S7"])(
  '"%s" is no id of a key',
  (text) => {
    expect(isId("key", text)).toBe(false);
  },
);

test("an id with anything around it is none", () => {
  const id = newId("acc", new Date());

  expect(isId("acc", `${id}'`)).toBe(false);
  expect(isId("acc", `${id}\n`)).toBe(false);
  expect(isId("acc", ` ${id}`)).toBe(false);
});
