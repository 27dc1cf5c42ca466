import { expect, test } from "vitest";
import { createKeyedSemaphore } from "./keyed-semaphore.ts";
import { BusyError } from "./semaphore.ts";

test("one key's permits are its own: others do not wait for it", async () => {
  const semaphore = createKeyedSemaphore({ permits: 1, waitersMax: 1, waitMs: 10_000 });
  const gate = Promise.withResolvers<void>();
  const done: string[] = [];
  const work = (name: string) => async () => {
    if (name !== "other") {
      await gate.promise;
    }
    done.push(name);
  };

  const first = semaphore.run("a", work("first"));
  const second = semaphore.run("a", work("second"));
  const third = semaphore.run("a", work("third"));
  await expect(third).rejects.toBeInstanceOf(BusyError);
  await semaphore.run("b", work("other"));
  expect(done).toEqual(["other"]);
  gate.resolve();
  await Promise.all([first, second]);

  expect(done).toEqual(["other", "first", "second"]);
});
