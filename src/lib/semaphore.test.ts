import { expect, test } from "vitest";
import { BusyError, createSemaphore, runEvenIfBusy } from "./semaphore.ts";

test("no more than the permitted number run at once, and all get their turn in order", async () => {
  const semaphore = createSemaphore({ permits: 2, waitersMax: 10, waitMs: 5_000 });
  const order: number[] = [];
  let running = 0;
  let most = 0;

  await Promise.all(
    [0, 1, 2, 3, 4].map((index) =>
      semaphore.run(async () => {
        order.push(index);
        most = Math.max(most, ++running);
        await new Promise(setImmediate);
        running -= 1;
      }),
    ),
  );

  expect(most).toBe(2);
  expect(order).toEqual([0, 1, 2, 3, 4]);
});

test("one too many waiters is turned away at once, without having run", async () => {
  const semaphore = createSemaphore({ permits: 1, waitersMax: 1, waitMs: 5_000 });
  const { promise, resolve } = Promise.withResolvers<void>();
  const first = semaphore.run(() => promise);
  const second = semaphore.run(async () => "second");

  await expect(semaphore.run(async () => "third")).rejects.toThrow(BusyError);

  resolve();
  await first;
  expect(await second).toBe("second");
});

test("whoever waited too long is turned away, and takes no permit with them", async () => {
  const semaphore = createSemaphore({ permits: 1, waitersMax: 5, waitMs: 1 });
  const { promise, resolve } = Promise.withResolvers<void>();
  const first = semaphore.run(() => promise);

  await expect(semaphore.run(async () => "late")).rejects.toThrow("no permit within 1 ms");

  resolve();
  await first;
  expect(await semaphore.run(async () => "next")).toBe("next");
});

test("work that fails gives its permit back", async () => {
  const semaphore = createSemaphore({ permits: 1, waitersMax: 0, waitMs: 1 });

  await expect(semaphore.run(() => Promise.reject(new Error("broken")))).rejects.toThrow("broken");

  expect(await semaphore.run(async () => "next")).toBe("next");
});

test("work that runs even if others are busy waits for them, and for no longer than it may", async () => {
  const patient = createSemaphore({ permits: 1, waitersMax: 5, waitMs: 60_000 });
  const impatient = createSemaphore({ permits: 1, waitersMax: 5, waitMs: 1 });
  const { promise, resolve } = Promise.withResolvers<void>();
  const order: string[] = [];
  const before = runEvenIfBusy(patient, () => promise.then(() => order.push("before")));
  const after = runEvenIfBusy(patient, async () => order.push("after"));
  const endless = runEvenIfBusy(impatient, () => promise);

  expect(await runEvenIfBusy(impatient, async () => "past it")).toBe("past it");
  expect(order).toEqual([]);

  resolve();
  await Promise.all([before, after, endless]);
  expect(order).toEqual(["before", "after"]);
});

test("work that runs even if others are busy is not done twice, whatever it fails with", async () => {
  const semaphore = createSemaphore({ permits: 1, waitersMax: 0, waitMs: 1 });
  let count = 0;

  const failed = runEvenIfBusy(semaphore, async () => {
    count += 1;
    throw new BusyError("elsewhere");
  });

  await expect(failed).rejects.toThrow("elsewhere");
  expect(count).toBe(1);
});
