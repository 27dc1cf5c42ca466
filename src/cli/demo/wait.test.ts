import { expect, test } from "vitest";
import { Mismatch } from "./report.ts";
import { inParallel, patiently, waitFor, within } from "./wait.ts";

test("a call that comes too often is made again, when the server says", async () => {
  const waits: number[] = [];
  let calls = 0;

  const reply = await patiently(async () => ++calls, {
    retryAfterMs: (outcome) => ("reply" in outcome && outcome.reply < 3 ? outcome.reply : null),
    onWait: (waitMs) => waits.push(waitMs),
  });

  expect(reply).toBe(3);
  expect(waits).toEqual([1, 2]);
});

test("a call is not made again beyond all patience, nor after another error", async () => {
  const waits: number[] = [];
  const onWait = (waitMs: number) => waits.push(waitMs);
  const fail = () => Promise.reject(new Error("too often"));

  await expect(patiently(fail, { retryAfterMs: () => 1e9, onWait })).rejects.toThrow("too often");
  await expect(patiently(fail, { retryAfterMs: () => null, onWait })).rejects.toThrow("too often");

  expect(waits).toEqual([]);
});

test("waiting ends with what was seen last", async () => {
  const never = async () => ({ seen: "3 of 4" });

  const waiting = waitFor("all of them", never, { timeoutMs: 5, intervalMs: 1 });

  await expect(waiting).rejects.toThrow(
    new Mismatch("all of them", { expected: "it within 5 ms", got: "3 of 4" }),
  );
});

test("work that takes too long is an error, and its own error comes through", async () => {
  const never = new Promise<void>(() => {});

  await expect(within(1, "it", never)).rejects.toThrow("Cannot wait longer for it");
  await expect(within(1e6, "it", Promise.reject(new Error("broken")))).rejects.toThrow("broken");
  await expect(within(1e6, "it", Promise.resolve("done"))).resolves.toBe("done");
});

test("tasks run side by side up to the limit, and keep their order", async () => {
  let running = 0;
  let most = 0;
  const tasks = Array.from({ length: 9 }, (_, index) => async () => {
    running += 1;
    most = Math.max(most, running);
    await new Promise((resolve) => setImmediate(resolve));
    running -= 1;
    return index;
  });

  expect(await inParallel(tasks, 3)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8]);
  expect(most).toBe(3);
});
