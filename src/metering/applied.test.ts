import { expect, test } from "vitest";
import { createProgress } from "./applied.ts";

const soon = () => AbortSignal.timeout(15_000);

function openProgress(
  readCursors = async (): Promise<{ shard: number; position: bigint }[]> => [],
) {
  const errors: unknown[] = [];
  const progress = createProgress({ readCursors, onError: (e) => errors.push(e) });
  return { progress, errors };
}

test("a wait ends when its own shard has reached its position", async () => {
  const { progress } = openProgress();
  let isDone = false;
  const wait = progress.reached(1, 5n, soon()).then((value) => {
    isDone = true;
    return value;
  });

  progress.note(0, 9n, []);
  progress.note(1, 4n, []);
  await new Promise((resolve) => setImmediate(resolve));
  expect(isDone).toBe(false);
  progress.note(1, 6n, []);

  expect(await wait).toBe(true);
  expect(await progress.reached(1, 6n, soon())).toBe(true);
});

test("a wait ends with its signal", async () => {
  const { progress } = openProgress();

  expect(await progress.reached(0, 1n, AbortSignal.timeout(20))).toBe(false);
  expect(await progress.reached(0, 1n, AbortSignal.abort())).toBe(false);
});

test("what another process applied is asked for, also after an error", async () => {
  let asked = 0;
  const { progress, errors } = openProgress(async () => {
    asked += 1;
    if (asked === 1) {
      throw new Error("no database");
    }
    return [{ shard: 0, position: BigInt(asked) }];
  });

  expect(await progress.reached(0, 3n, soon())).toBe(true);
  expect(errors).toHaveLength(1);
  const before = asked;
  await new Promise((resolve) => setTimeout(resolve, 150));
  expect(asked).toBe(before);
});

test("more than a thousand do not wait", async () => {
  const { progress } = openProgress();
  const ended = new AbortController();
  const waits = Array.from({ length: 1_000 }, () => progress.reached(0, 1n, ended.signal));

  expect(await progress.reached(0, 1n, soon())).toBe(false);

  ended.abort();
  expect(await Promise.all(waits)).not.toContain(true);
});

test("who listens to an account hears of its events, and of nobody else's", () => {
  const { progress } = openProgress();
  let woken = 0;
  const stop = progress.onApplied("a", () => {
    woken += 1;
  });

  progress.note(0, 2n, ["a", "b"]);
  progress.note(0, 3n, ["b"]);
  progress.note(0, 3n, []);
  expect(woken).toBe(1);
  stop();
  progress.note(0, 4n, ["a"]);

  expect(woken).toBe(1);
});
