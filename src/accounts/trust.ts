import type { Tx } from "../db/pool.ts";

/** What keeps a process's memory of the database true, as far as people need it. */
export interface Trust {
  /** Announce, in the transaction of a change, that what is remembered of the keys no longer holds. */
  announce(tx: Tx, topic: string, keys: readonly string[]): Promise<bigint>;
  /** Resolves, after the commit, once no process can act on what was before. */
  settled(epoch: bigint): Promise<void>;
  /** A bounded memory of a topic, with misses. */
  remember<V>(
    topic: string,
    options: {
      load: (keys: readonly string[]) => Promise<ReadonlyMap<string, V>>;
      entriesMax: number;
    },
  ): Memory<V>;
}

/** What is remembered of one topic. */
export interface Memory<V> {
  /** What the database holds under the key. Null: nothing. */
  get(key: string): V | null | Promise<V | null>;
}

/** Remembers nothing: each look-up reads the database, and so every change holds at once. */
export function createForgetfulTrust(): Trust {
  return {
    announce: async () => 0n,
    settled: async () => {},
    remember: (_topic, { load }) => ({
      get: async (key) => (await load([key])).get(key) ?? null,
    }),
  };
}
