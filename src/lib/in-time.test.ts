import { stat } from "node:fs/promises";
import { expect, test } from "vitest";
import { inTime, LateError } from "./in-time.ts";

const never = new Promise<never>(() => {});

test("work that takes too long is given up, by name", async () => {
  const late = inTime(never, { ms: 5, what: "the database" });

  await expect(late).rejects.toThrow(LateError);
  await expect(late).rejects.toThrow("Cannot wait for the database: it took more than 5 ms");
});

test("what came while the process was busy came in time", async () => {
  const { promise, resolve } = Promise.withResolvers<unknown>();

  // After an immediate timers come first, and whatever else has come meanwhile comes after them.
  setImmediate(() => {
    resolve(inTime(stat(import.meta.filename), { ms: 20, what: "a file" }));
    const endMs = performance.now() + 300;
    while (performance.now() < endMs) {}
  });

  expect(await promise).toMatchObject({ mtime: expect.any(Date) });
});
