import { execFileSync } from "node:child_process";
import fc from "fast-check";
import { expect, test } from "vitest";
import { createLruMap } from "./lru-map.ts";

test("it holds what a plain list of the last used holds", () => {
  const seed = Date.now() % 2 ** 31;
  const key = fc.integer({ min: 0, max: 9 }).map(String);
  const step = fc.oneof(
    { weight: 4, arbitrary: fc.record({ verb: fc.constant("set"), key }) },
    { weight: 4, arbitrary: fc.record({ verb: fc.constant("get"), key }) },
    { weight: 2, arbitrary: fc.record({ verb: fc.constant("delete"), key }) },
    { weight: 1, arbitrary: fc.record({ verb: fc.constant("clear"), key }) },
  );

  fc.assert(fc.property(fc.array(step, { maxLength: 60 }), fc.integer({ min: 1, max: 6 }), check), {
    seed,
    numRuns: 500,
  });

  function check(steps: { verb: string; key: string }[], entriesMax: number) {
    const map = createLruMap<number>(entriesMax);
    let model: [string, number][] = [];
    for (const [index, { verb, key }] of steps.entries()) {
      const found = model.find(([other]) => other === key);
      const others = model.filter(([other]) => other !== key);
      if (verb === "set") {
        map.set(key, index);
        model = [...others, [key, index] satisfies [string, number]].slice(-entriesMax);
      } else if (verb === "get") {
        expect(map.get(key)).toBe(found?.[1]);
        model = found === undefined ? others : [...others, found];
      } else if (verb === "delete") {
        map.delete(key);
        model = others;
      } else {
        map.clear();
        model = [];
      }
      expect(map.size).toBe(model.length);
      expect([...map.keys()].sort()).toEqual(model.map(([other]) => other).sort());
    }
  }
});

test("an entry costs less than 100 bytes besides its key and its value", () => {
  const script = `
    import { createLruMap } from ${JSON.stringify(new URL("lru-map.ts", import.meta.url).href)};
    const count = 300_000;
    const keys = Array.from({ length: count }, (_, index) => "key of entry " + index);
    const value = { shared: true };
    for (const key of keys) new Set([key]);
    const used = () => {
      gc();
      const { heapUsed, arrayBuffers } = process.memoryUsage();
      return heapUsed + arrayBuffers;
    };
    const before = used();
    const map = createLruMap(count);
    for (const key of keys) map.set(key, value);
    console.log((used() - before) / count, map.size, keys.length);
  `;

  const args = ["--expose-gc", "--input-type=module-typescript", "-e", script];
  const [bytes, size] = execFileSync(process.execPath, args, { encoding: "utf8" }).split(" ");

  expect(Number(size)).toBe(300_000);
  expect(Number(bytes)).toBeGreaterThan(20);
  expect(Number(bytes)).toBeLessThan(100);
});
