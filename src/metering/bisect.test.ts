import { expect, test } from "vitest";
import { findRefused } from "./bisect.ts";

const seed = Number(process.env.CALLORA_TEST_SEED ?? Date.now() % 1_000_000);

test.for([
  [0, []],
  [1, []],
  [1, [0]],
  [2, [1]],
  [7, [0, 6]],
  [100, [41]],
  [100, Array.from({ length: 100 }, (_, index) => index)],
] as const)("of %i items exactly the refused ones %j are left out", async ([count, poison]) => {
  const items = Array.from({ length: count }, (_, index) => index);
  const applied: number[] = [];

  const refused = await findRefused(items, async (group) => {
    if (group.some((item) => (poison as readonly number[]).includes(item))) {
      return { detail: "no" };
    }
    applied.push(...group);
    return null;
  });

  expect(refused.map(({ item }) => item)).toEqual(poison);
  expect(applied).toEqual(items.filter((item) => !(poison as readonly number[]).includes(item)));
});

test(`one refused item costs two groups a halving at most (seed ${seed})`, async () => {
  const poison = seed % 5_000;
  let groups = 0;

  await findRefused(
    Array.from({ length: 5_000 }, (_, index) => index),
    async (group) => {
      groups += 1;
      return group.includes(poison) ? { detail: "no" } : null;
    },
  );

  expect(groups).toBeLessThanOrEqual(2 * Math.ceil(Math.log2(5_000)) + 1);
});

test("what is refused only together is refused at the one that comes last", async () => {
  const applied: number[] = [];

  const refused = await findRefused([1, 2, 3, 4], async (group) => {
    if ([...applied, ...group].includes(1) && group.includes(4)) {
      return { detail: "sum" };
    }
    applied.push(...group);
    return null;
  });

  expect(refused.map(({ item }) => item)).toEqual([4]);
  expect(applied).toEqual([1, 2, 3]);
});
