import type { Trust } from "../../src/keys/stand-ins.ts";

/** Trust of a process that is alone and changes nothing: it remembers in a Map, and loads what is asked at once. */
export function createMapTrust(): Trust {
  return {
    announce: async () => 0n,
    settled: async () => {},
    remember<V>(
      _topic: string,
      {
        load,
        entriesMax,
      }: {
        load: (keys: readonly string[]) => Promise<ReadonlyMap<string, V>>;
        entriesMax: number;
      },
    ) {
      const known = new Map<string, V | null>();
      let batch: { keys: string[]; loaded: Promise<ReadonlyMap<string, V>> } | undefined;
      return {
        get(key: string) {
          const value = known.get(key);
          if (value !== undefined) {
            return value;
          }
          if (batch === undefined) {
            const keys: string[] = [];
            const loaded = new Promise<void>((resolve) => setImmediate(resolve)).then(() => {
              batch = undefined;
              return load(keys);
            });
            batch = { keys, loaded };
          }
          batch.keys.push(key);
          return batch.loaded.then((values) => {
            const found = values.get(key) ?? null;
            if (known.size < entriesMax) {
              known.set(key, found);
            }
            return found;
          });
        },
        watch: () => () => {},
      };
    },
  };
}
