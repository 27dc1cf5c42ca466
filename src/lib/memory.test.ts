import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { expect, test } from "vitest";

/** What a call of nextTick() takes before and after memory was released, at its fastest. */
const script = `
  import { setImmediate as turn } from "node:timers/promises";
  import { releaseMemory } from ${JSON.stringify(new URL("memory.ts", import.meta.url).href)};
  async function fastest() {
    let least = Infinity;
    for (let round = 0; round < 100; round++) {
      const begun = performance.now();
      for (let count = 0; count < 1_000; count++) process.nextTick(() => {});
      least = Math.min(least, performance.now() - begun);
      await turn();
    }
    return least;
  }
  const before = await fastest();
  releaseMemory();
  await turn();
  releaseMemory();
  await turn();
  console.log((await fastest()) / before);
`;

test("memory that is released does not make nextTick() slow", async () => {
  const args = ["--input-type=module", "--eval", script];
  const { stdout } = await promisify(execFile)(process.execPath, args);

  expect(Number(stdout)).toBeGreaterThan(0);
  expect(Number(stdout)).toBeLessThan(4);
});
