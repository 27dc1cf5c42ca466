import { expect, test } from "vitest";
import { Bytes } from "./bytes.ts";

test("parts come together, whatever their sizes", () => {
  const sizes = [0, 1, 3, 0, 2_000, 1, 5_000, 65_536];
  const parts = sizes.map((size, index) => Buffer.alloc(size, index + 1));
  const bytes = new Bytes();

  for (const [index, part] of parts.entries()) {
    bytes.add(part);
    expect(bytes.all.equals(Buffer.concat(parts.slice(0, index + 1)))).toBe(true);
  }
  bytes.clear();
  bytes.add(Buffer.from("anew"));

  expect([bytes.length, String(bytes.all)]).toEqual([4, "anew"]);
});

test("a part that came is not written to", () => {
  const memory = Buffer.from("ab");
  const bytes = new Bytes();

  bytes.add(memory.subarray(0, 1));
  bytes.add(Buffer.from("c"));

  expect([String(memory), String(bytes.all)]).toEqual(["ab", "ac"]);
});
