import type { Tx } from "../db/pool.ts";

/** A bounded memory of one topic of the database, with misses; forgets on announcements. */
export interface Memory<V> {
  /** What the database holds under the key; null: nothing. From memory, then not a promise, or loaded. */
  get(key: string): V | null | Promise<V | null>;
}

/** Keeps what processes remember of the database true. */
export interface Trust {
  /** Announce, in the transaction of the change, that what is remembered under the keys no longer holds. */
  announce(tx: Tx, topic: string, keys: readonly string[]): Promise<bigint>;
  /** After the commit: resolves once no live process can act on what was before. */
  settled(epoch: bigint): Promise<void>;
  /** A memory of one topic. `load` gives what the database holds under the keys. */
  remember<V>(
    topic: string,
    options: {
      load: (keys: readonly string[]) => Promise<ReadonlyMap<string, V>>;
      entriesMax: number;
    },
  ): Memory<V>;
}

/** Remembers nothing: each look-up asks the database, so that announcements have nobody to reach. */
export function createForgetfulTrust(): Trust {
  return {
    announce: async () => 0n,
    settled: async () => {},
    remember: (_topic, { load }) => ({
      get: async (key) => (await load([key])).get(key) ?? null,
    }),
  };
}
