import { createSemaphore, type Semaphore } from "./semaphore.ts";

/** Semaphores by key, so that no key takes what is there for all. One that nobody uses is forgotten. */
export interface KeyedSemaphore {
  /** Run with a permit of the key. Throws BusyError without having run. */
  run<T>(key: string, work: () => Promise<T>): Promise<T>;
}

/** Make semaphores that have so many permits, and let so many wait, each. */
export function createKeyedSemaphore(
  limits: Parameters<typeof createSemaphore>[0],
): KeyedSemaphore {
  const open = new Map<string, { semaphore: Semaphore; users: number }>();
  return {
    async run(key, work) {
      const entry = open.get(key) ?? { semaphore: createSemaphore(limits), users: 0 };
      open.set(key, entry);
      entry.users += 1;
      try {
        return await entry.semaphore.run(work);
      } finally {
        entry.users -= 1;
        if (entry.users === 0) {
          open.delete(key);
        }
      }
    },
  };
}
