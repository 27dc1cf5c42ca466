/** Thrown when a permit could not be had in time, or too many already wait. */
export class BusyError extends Error {
  override name = "BusyError";
}

/** Lets a bounded number in at once; others wait in order, a bounded number and a bounded time. */
export interface Semaphore {
  /** Run with a permit. Throws BusyError without having run. */
  run<T>(work: () => Promise<T>): Promise<T>;
}

/** Make a semaphore. */
export function createSemaphore({
  permits,
  waitersMax,
  waitMs,
}: {
  permits: number;
  waitersMax: number;
  waitMs: number;
}): Semaphore {
  let free = permits;
  const waiters = new Set<() => void>();

  function acquire(): Promise<void> {
    if (free > 0) {
      free -= 1;
      return Promise.resolve();
    }
    if (waiters.size >= waitersMax) {
      return Promise.reject(new BusyError(`Cannot wait: ${waiters.size} wait already`));
    }
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        waiters.delete(enter);
        reject(new BusyError(`Cannot start: no permit within ${waitMs} ms`));
      }, waitMs);
      function enter() {
        clearTimeout(timer);
        resolve();
      }
      waiters.add(enter);
    });
  }

  function release() {
    const next = waiters.values().next();
    if (next.done) {
      free += 1;
      return;
    }
    waiters.delete(next.value);
    next.value();
  }

  return {
    async run(work) {
      await acquire();
      try {
        return await work();
      } finally {
        release();
      }
    },
  };
}

/** Run with a permit, or without when none could be had in time: what stands still holds up others for so long only. */
export async function runEvenIfBusy<T>(semaphore: Semaphore, work: () => Promise<T>): Promise<T> {
  let hasBegun = false;
  try {
    return await semaphore.run(() => {
      hasBegun = true;
      return work();
    });
  } catch (error) {
    if (hasBegun || !(error instanceof BusyError)) {
      throw error;
    }
    return work();
  }
}
