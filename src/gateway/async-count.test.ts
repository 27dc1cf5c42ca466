import { expect, test, vi } from "vitest";
import { createAsyncCount } from "./async-count.ts";

test("no more calls pass than the bound, and as many as become durable", () => {
  const count = createAsyncCount({ pendingMax: 3 });
  let passed = 0;
  for (let call = 0; call < 10 && count.mayPass(); call++) {
    count.begin();
    passed += 1;
  }
  expect([passed, count.pending]).toEqual([3, 3]);

  count.end(true);
  count.end(false);
  expect(count.mayPass()).toBe(true);
  count.begin();
  count.begin();
  expect(count.mayPass()).toBe(false);

  expect([count.pending, count.lost]).toEqual([3, 1]);
});

test("none passes while the oldest waits for long, and again once it is durable", () => {
  vi.useFakeTimers({ toFake: ["performance"] });
  try {
    const count = createAsyncCount({ pendingMax: 100 });
    count.begin();
    vi.advanceTimersByTime(200);
    count.begin();
    expect([count.mayPass(), count.oldestMs]).toEqual([true, 200]);

    vi.advanceTimersByTime(51);
    expect(count.mayPass()).toBe(false);
    count.end(true);
    expect([count.mayPass(), count.oldestMs]).toEqual([true, 51]);
    count.end(true);
    vi.advanceTimersByTime(10_000);

    expect([count.mayPass(), count.oldestMs, count.pending]).toEqual([true, 0, 0]);
  } finally {
    vi.useRealTimers();
  }
});
