/** How far each shard of the journal is applied, as far as this process has heard. */
export interface Progress {
  /**
   * Wait until a shard is applied up to a position. Resolves to false when the signal ends the wait, or too many wait
   * already. Never rejects.
   */
  reached(shard: number, position: bigint, signal: AbortSignal): Promise<boolean>;
  /** Say that a shard is applied up to a position, and whose events were. */
  note(shard: number, position: bigint, accounts: readonly string[]): void;
  /** Told whenever a projector of this process applied some of the account's events. Returns how to stop it. */
  onApplied(accountId: string, wake: () => void): () => void;
}

interface Waiter {
  shard: number;
  position: bigint;
  done: () => void;
}

const waitersMax = 1_000;
const pollMsMin = 10;
const pollMsMax = 100;

/**
 * Make the signal of what is applied.
 *
 * Projectors of this process say it at once. Those of others are asked for in the database, and only while somebody
 * waits.
 */
export function createProgress({
  readCursors,
  onError,
}: {
  /** Reads how far each shard is applied. */
  readCursors: () => Promise<readonly { shard: number; position: bigint }[]>;
  onError: (error: unknown) => void;
}): Progress {
  const positions = new Map<number, bigint>();
  const waiters = new Set<Waiter>();
  const listeners = new Map<string, Set<{ wake: () => void }>>();
  let isPolling = false;

  function note(shard: number, position: bigint, accounts: readonly string[]) {
    for (const account of accounts) {
      for (const { wake } of [...(listeners.get(account) ?? [])]) {
        wake();
      }
    }
    const known = positions.get(shard) ?? 0n;
    if (position <= known) {
      return;
    }
    positions.set(shard, position);
    for (const waiter of waiters) {
      if (waiter.shard === shard && waiter.position <= position) {
        waiter.done();
      }
    }
  }

  async function poll() {
    isPolling = true;
    for (let ms = pollMsMin; waiters.size > 0; ms = Math.min(ms * 2, pollMsMax)) {
      await new Promise((resolve) => setTimeout(resolve, ms));
      if (waiters.size > 0) {
        try {
          for (const { shard, position } of await readCursors()) {
            note(shard, position, []);
          }
        } catch (error) {
          // Whoever waits has a deadline.
          onError(error);
        }
      }
    }
    isPolling = false;
  }

  return {
    note,
    reached(shard, position, signal) {
      if ((positions.get(shard) ?? 0n) >= position) {
        return Promise.resolve(true);
      }
      if (signal.aborted || waiters.size >= waitersMax) {
        return Promise.resolve(false);
      }
      const { promise, resolve } = Promise.withResolvers<boolean>();
      const waiter = { shard, position, done: () => end(true) };
      const onAbort = () => end(false);
      function end(isReached: boolean) {
        waiters.delete(waiter);
        signal.removeEventListener("abort", onAbort);
        resolve(isReached);
      }
      waiters.add(waiter);
      signal.addEventListener("abort", onAbort);
      if (!isPolling) {
        void poll();
      }
      return promise;
    },
    onApplied(accountId, wake) {
      const entry = { wake };
      const all = listeners.get(accountId) ?? new Set();
      listeners.set(accountId, all.add(entry));
      return () => {
        all.delete(entry);
        if (all.size === 0 && listeners.get(accountId) === all) {
          listeners.delete(accountId);
        }
      };
    },
  };
}
