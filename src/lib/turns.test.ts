import { setImmediate } from "node:timers/promises";
import { expect, test } from "vitest";
import { inTurns } from "./turns.ts";

test("all items are visited in order, and others have their turn in between", async () => {
  const items = Array.from({ length: 200 }, (_, index) => index);
  const visited: number[] = [];
  let isOver = false;
  const turns: number[] = [];
  const others = (async () => {
    while (!isOver) {
      await setImmediate();
      turns.push(visited.length);
    }
  })();

  await inTurns(items, (item) => {
    visited.push(item);
    const end = performance.now() + 0.5;
    while (performance.now() < end);
  });
  isOver = true;
  await others;

  expect(visited).toEqual(items);
  expect(turns.filter((length) => length > 0 && length < items.length).length).toBeGreaterThan(2);
});

test("an error of a visit ends it", async () => {
  await expect(
    inTurns([1, 2], () => {
      throw new Error("enough");
    }),
  ).rejects.toThrow("enough");
});
