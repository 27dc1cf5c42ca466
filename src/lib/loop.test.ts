import { expect, test } from "vitest";
import { startLoop } from "./loop.ts";

/** A loop whose rounds are counted, and a wait for the given round. */
function counted({ intervalMs, more }: { intervalMs: number; more: (round: number) => boolean }) {
  const errors: unknown[] = [];
  const reached = new Map<number, PromiseWithResolvers<void>>();
  let rounds = 0;
  function round(number: number): PromiseWithResolvers<void> {
    const found = reached.get(number) ?? Promise.withResolvers<void>();
    reached.set(number, found);
    return found;
  }
  const loop = startLoop({
    async tick() {
      rounds += 1;
      round(rounds).resolve();
      return more(rounds);
    },
    intervalMs,
    onError: (error) => errors.push(error),
  });
  return { loop, errors, rounds: () => rounds, reached: (number: number) => round(number).promise };
}

test("rounds follow at once while there is more, and then wait to be woken", async () => {
  const { loop, rounds, reached } = counted({ intervalMs: 60_000, more: (round) => round < 3 });

  await reached(3);
  await new Promise(setImmediate);
  expect(rounds()).toBe(3);
  loop.wake();
  await reached(4);

  await loop.stop();
  expect(rounds()).toBe(4);
});

test("waking during a round is not lost", async () => {
  let wake = () => {};
  const { loop, reached } = counted({
    intervalMs: 60_000,
    more: (round) => {
      if (round === 1) {
        wake();
      }
      return false;
    },
  });
  wake = () => loop.wake();

  loop.wake();
  await reached(2);

  await loop.stop();
});

test("a failed round is reported, and the loop goes on", async () => {
  const { loop, errors, reached } = counted({
    intervalMs: 1,
    more: (round) => {
      if (round === 1) {
        throw new Error("round 1");
      }
      return false;
    },
  });

  await reached(2);

  await loop.stop();
  expect(errors.map(String)).toEqual(["Error: round 1"]);
});

test("stop lets the round that runs finish", async () => {
  const { promise, resolve } = Promise.withResolvers<void>();
  const begun = Promise.withResolvers<void>();
  let finished = false;
  const loop = startLoop({
    async tick() {
      begun.resolve();
      await promise;
      finished = true;
      return true;
    },
    intervalMs: 1,
    onError: () => {},
  });
  await begun.promise;

  const stopped = loop.stop();
  resolve();
  await stopped;

  expect(finished).toBe(true);
});
