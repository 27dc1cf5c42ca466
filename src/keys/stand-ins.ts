import type { Tx } from "../db/pool.ts";
import type { Rate, Verdict } from "../rpc/limiter.ts";

/** A bounded memory of one topic, with misses. */
export interface Memory<V> {
  /** What the database holds under the key; null: nothing. Not a promise when it is remembered. */
  get(key: string): V | null | Promise<V | null>;
  /** Told whenever the key is announced. Returns how to stop it. */
  watch(key: string, listener: () => void): () => void;
}

/** Keeps what processes remember of the database true. */
export interface Trust {
  /** Announce, in the transaction of the change, that what is remembered under the keys no longer holds. */
  announce(tx: Tx, topic: string, keys: readonly string[]): Promise<bigint>;
  /** After the commit: resolves once no live process can act on what was before. */
  settled(epoch: bigint): Promise<void>;
  /** A bounded memory of one topic. */
  remember<V>(
    topic: string,
    options: {
      load: (keys: readonly string[]) => Promise<ReadonlyMap<string, V>>;
      entriesMax: number;
    },
  ): Memory<V>;
}

/** Trust of one process that remembers nothing: it loads what is asked for each time. */
export function createDirectTrust(): Trust {
  const watchers = new Set<{ name: string; listener: () => void }>();
  const announced = new Map<bigint, ReadonlySet<string>>();
  let epoch = 0n;
  return {
    async announce(_tx, topic, keys) {
      epoch += 1n;
      announced.set(epoch, new Set(keys.map((key) => `${topic} ${key}`)));
      return epoch;
    },
    async settled(past) {
      const names = announced.get(past);
      announced.delete(past);
      for (const { listener } of [...watchers].filter(({ name }) => names?.has(name))) {
        listener();
      }
    },
    remember: (topic, { load }) => ({
      get: async (key) => (await load([key])).get(key) ?? null,
      watch(key, listener) {
        const watcher = { name: `${topic} ${key}`, listener };
        watchers.add(watcher);
        return () => watchers.delete(watcher);
      },
    }),
  };
}

/** A budget that calls take from. The id says whose it is. */
export interface Limit {
  readonly id: string;
  readonly rate: Rate;
  readonly cost?: number;
  /** Whether to refuse when processes share their counts and the shared ones cannot be had. */
  readonly isStrict?: boolean;
}

/** Counts calls: takes from all of the limits, or from none. The verdict is that of the tightest. */
export interface Limiter {
  take(limits: readonly Limit[], now: Date): Verdict | Promise<Verdict>;
}

const idsMax = 100_000;

/** Count calls in memory. */
export function createDirectLimiter(): Limiter {
  // For each id, the time at which the whole budget is back.
  const backAt = new Map<string, number>();
  return {
    take(limits, now) {
      const nowMs = now.getTime();
      const rows = limits.map(({ id, rate, cost = 1 }) => {
        const before = Math.max(backAt.get(id) ?? nowMs, nowMs);
        const after = before + rate.intervalMs * cost;
        return { id, rate, before, after, waitMs: after - rate.intervalMs * rate.burst - nowMs };
      });
      const allowed = rows.every(({ waitMs }) => waitMs <= 0);
      const verdicts = rows.map(({ rate, before, after, waitMs }) => {
        const spentMs = (allowed ? after : before) - nowMs;
        return {
          allowed,
          limit: rate.burst,
          remaining: Math.max(0, Math.floor(rate.burst - spentMs / rate.intervalMs)),
          resetMs: spentMs,
          retryAfterMs: allowed ? 0 : Math.max(0, waitMs),
        };
      });
      for (const { id, after } of allowed ? rows : []) {
        backAt.delete(id);
        backAt.set(id, after);
        const oldest = backAt.keys().next();
        if (backAt.size > idsMax && !oldest.done) {
          backAt.delete(oldest.value);
        }
      }
      return verdicts.reduce((a, b) =>
        b.retryAfterMs > a.retryAfterMs ||
        (b.retryAfterMs === a.retryAfterMs && b.remaining < a.remaining)
          ? b
          : a,
      );
    },
  };
}
