import { expect, test } from "vitest";
import { Parts, partBytes } from "./parts.ts";

const read = Buffer.alloc(partBytes, "x");

test("a part is a copy, and is used again once it was given back", () => {
  const parts = new Parts();
  const first = parts.copy(read, partBytes);
  const second = parts.copy(read, partBytes);

  parts.giveBack(first);
  const third = parts.copy(Buffer.alloc(partBytes, "y"), partBytes);

  expect(third.buffer).toBe(first.buffer);
  expect(third.equals(Buffer.alloc(partBytes, "y"))).toBe(true);
  expect(second.buffer).not.toBe(first.buffer);
  expect(second.equals(read)).toBe(true);
  expect(read.equals(Buffer.alloc(partBytes, "x"))).toBe(true);
});

test("a short part has bytes of its own, and a piece of one is not used again", () => {
  const parts = new Parts();
  const short = parts.copy(read, 5);
  const whole = parts.copy(read, partBytes);

  parts.giveBack(short);
  parts.giveBack(whole.subarray(1));
  parts.giveBack(Buffer.from(whole.buffer, 0, partBytes - 1));

  expect(short.toString()).toBe("xxxxx");
  expect(parts.freeBytes).toBe(0);
});

test("what is kept has a limit, and is let go when nobody needs it", () => {
  const parts = new Parts();
  const all = Array.from({ length: 1_100 }, () => parts.copy(read, partBytes));
  for (const part of all) {
    parts.giveBack(part);
  }
  const most = parts.freeBytes;

  parts.trim();
  const taken = Array.from({ length: 10 }, () => parts.copy(read, partBytes));
  for (const part of taken) {
    parts.giveBack(part);
  }
  parts.trim();
  const needed = parts.freeBytes;
  parts.trim();

  expect(most).toBe(1_024 * partBytes);
  expect(needed).toBe(10 * partBytes);
  expect(parts.freeBytes).toBe(0);
});
