/** Those who wait for something to happen to a hash. */
export type Waiters<T> = {
  /** Null when the signal aborts first. */
  wait(hash: string, signal: AbortSignal): Promise<T | null>;
  answer(hash: string, value: T | null): void;
  answerAll(value: T | null): void;
};

/** Make an empty set of waiters. Each waiter's signal bounds how long it stays. */
export function createWaiters<T>(): Waiters<T> {
  const waiting = new Map<string, Set<(value: T | null) => void>>();

  function answer(hash: string, value: T | null): void {
    for (const resolve of waiting.get(hash) ?? []) resolve(value);
  }

  return {
    wait(hash, signal) {
      if (signal.aborted) return Promise.resolve(null);
      return new Promise((resolve) => {
        const resolvers = waiting.get(hash) ?? new Set();
        waiting.set(hash, resolvers);
        const done = (value: T | null) => {
          signal.removeEventListener("abort", onAbort);
          resolvers.delete(done);
          if (resolvers.size === 0) waiting.delete(hash);
          resolve(value);
        };
        const onAbort = () => done(null);
        signal.addEventListener("abort", onAbort);
        resolvers.add(done);
      });
    },
    answer,
    answerAll(value) {
      for (const hash of waiting.keys()) answer(hash, value);
    },
  };
}
