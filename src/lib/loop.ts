/** Work that repeats until it is stopped. */
export interface Loop {
  /** Do it soon, without waiting for the interval. */
  wake(): void;
  /** Let the current round finish, and stop. */
  stop(): Promise<void>;
}

/**
 * Run `tick` again and again: at once while it says that there is more, else after the interval.
 *
 * A failed round is reported and tried again after the interval, doubled each time up to 30 s.
 */
export function startLoop({
  tick,
  intervalMs,
  onError,
}: {
  /** One round. True: there is more to do now. */
  tick: (signal: AbortSignal) => Promise<boolean>;
  intervalMs: number;
  onError: (error: unknown) => void;
}): Loop {
  const stopping = new AbortController();
  let awake: () => void = () => {};
  let woken = false;
  let failures = 0;

  function pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      awake = () => {
        clearTimeout(timer);
        resolve();
      };
      if (woken || stopping.signal.aborted) {
        awake();
      }
    });
  }

  async function run() {
    while (!stopping.signal.aborted) {
      woken = false;
      try {
        const more = await tick(stopping.signal);
        failures = 0;
        if (!more) {
          await pause(intervalMs);
        }
      } catch (error) {
        if (stopping.signal.aborted) {
          return;
        }
        onError(error);
        await pause(Math.min(intervalMs * 2 ** failures, 30_000));
        failures = Math.min(failures + 1, 16);
      }
    }
  }

  const running = run();
  return {
    wake() {
      woken = true;
      awake();
    },
    async stop() {
      stopping.abort();
      awake();
      await running;
    },
  };
}
