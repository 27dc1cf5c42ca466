import { setImmediate as turned } from "node:timers/promises";
import { expect, test } from "vitest";
import { createRunning, type RunningCall } from "./running.ts";

test("a call that rests goes on when the loop has turned, and once more a turn later", async () => {
  const running = createRunning({ callsMax: 10, nowMs: () => 0 });
  const turns: string[] = [];
  const callOf = (name: string): RunningCall => ({
    previous: null,
    next: null,
    sweep() {},
    stop() {},
    onTurn() {
      turns.push(name);
      if (turns.length < 4) {
        running.rest(this);
      }
    },
  });

  running.rest(callOf("a"));
  running.rest(callOf("b"));
  await Promise.resolve();
  const atOnce = [...turns];
  await turned();
  const first = [...turns];
  await turned();
  await turned();

  expect(atOnce).toEqual([]);
  expect(first).toEqual(["a", "b"]);
  expect(turns).toEqual(["a", "b", "a", "b", "a"]);
});
