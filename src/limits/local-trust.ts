import type { Tx } from "../db/pool.ts";

/** Keeps what processes remember of the database true. */
export interface Trust {
  /** Announce, in the transaction of the change, that what is remembered under these keys no longer holds. */
  announce(tx: Tx, topic: string, keys: readonly string[]): Promise<bigint>;
  /** After the commit: resolves once no live process can act on what was before. */
  settled(epoch: bigint): Promise<void>;
  /** A bounded memory of one topic, with misses; forgets on announcements. */
  remember<V>(topic: string, options: MemoryOptions<V>): Memory<V>;
}

/** How a memory is filled, and how full it gets. */
export interface MemoryOptions<V> {
  load: (keys: readonly string[]) => Promise<ReadonlyMap<string, V>>;
  entriesMax: number;
}

/** What the database holds, by key. */
export interface Memory<V> {
  /** From memory (then not a promise) or loaded; null: nothing. */
  get(key: string): V | null | Promise<V | null>;
}

/** A trust among the parts of one process alone: whatever changes makes it forget everything. */
export function createLocalTrust(): Trust {
  const memories: { forget(): void }[] = [];
  let epoch = 0n;
  return {
    async announce() {
      return ++epoch;
    },
    async settled() {
      for (const memory of memories) {
        memory.forget();
      }
    },
    remember<V>(_topic: string, { load, entriesMax }: MemoryOptions<V>): Memory<V> {
      let known = new Map<string, V | null>();
      memories.push({
        forget() {
          // What is being loaded now may be of before: it goes into the map that nobody asks.
          known = new Map();
        },
      });
      async function fetch(key: string, into: Map<string, V | null>): Promise<V | null> {
        const value = (await load([key])).get(key) ?? null;
        if (into.size >= entriesMax) {
          into.clear();
        }
        into.set(key, value);
        return value;
      }
      return {
        get(key) {
          const value = known.get(key);
          return value === undefined ? fetch(key, known) : value;
        },
      };
    },
  };
}
