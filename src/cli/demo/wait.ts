import { setTimeout as sleep } from "node:timers/promises";
import { Mismatch } from "./report.ts";

/**
 * Ask again until the answer is there. Throws Mismatch, with what was seen last, after the time.
 */
export async function waitFor<T>(
  what: string,
  ask: () => Promise<{ value: T } | { seen: string }>,
  { timeoutMs, intervalMs }: { timeoutMs: number; intervalMs: number },
): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const answer = await ask();
    if ("value" in answer) {
      return answer.value;
    }
    if (performance.now() + intervalMs > deadline) {
      throw new Mismatch(what, { expected: `it within ${timeoutMs} ms`, got: answer.seen });
    }
    await sleep(intervalMs);
  }
}

/** The outcome of a promise, or an error when it takes longer. */
export async function within<T>(timeoutMs: number, what: string, work: Promise<T>): Promise<T> {
  const waited = new AbortController();
  const late = sleep(timeoutMs, undefined, { signal: waited.signal }).then(() => {
    throw new Error(`Cannot wait longer for ${what}: ${timeoutMs} ms are over`);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    waited.abort();
    await late.catch(() => {});
  }
}

/** How long calls that come too often wait for their turn, altogether. */
const rateWaitMsMax = 90_000;

/** What came of a call. */
export type Outcome<T> = { reply: T } | { error: unknown };

/** Told that a call waits its turn, and how long. */
export type OnWait = (waitMs: number) => void;

/**
 * Make a call again, as long as the server answers that it comes too often, when the server says.
 *
 * `retryAfterMs` reads that time from what came of the call; null means that it is something else.
 */
export async function patiently<T>(
  call: () => Promise<T>,
  {
    retryAfterMs,
    onWait,
  }: { retryAfterMs: (outcome: Outcome<T>) => number | null; onWait: OnWait },
): Promise<T> {
  const deadline = performance.now() + rateWaitMsMax;
  for (;;) {
    const outcome: Outcome<T> = await call().then(
      (reply) => ({ reply }),
      (error: unknown) => ({ error }),
    );
    const waitMs = retryAfterMs(outcome);
    if (waitMs === null || performance.now() + waitMs > deadline) {
      if ("error" in outcome) {
        throw outcome.error;
      }
      return outcome.reply;
    }
    onWait(waitMs);
    await sleep(waitMs);
  }
}

/** Do the tasks, at most `limit` at a time. The results are in the order of the tasks. */
export async function inParallel<T>(
  tasks: readonly (() => Promise<T>)[],
  limit: number,
): Promise<T[]> {
  const results: T[] = [];
  let next = 0;
  async function work() {
    while (next < tasks.length) {
      const index = next++;
      const task = tasks[index];
      if (task !== undefined) {
        results[index] = await task();
      }
    }
  }
  await Promise.all(Array.from({ length: limit }, work));
  return results;
}
