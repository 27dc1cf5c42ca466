import { inTime } from "../lib/in-time.ts";
import { createLruMap, type LruMap } from "../lib/lru-map.ts";
import { BusyError } from "../lib/semaphore.ts";
import { TrustLostError } from "./trust-error.ts";

/** What one topic of the database holds, remembered, with what it does not hold. */
export interface Memory<V> {
  /**
   * What the database holds under the key, from memory (then not a promise) or loaded (look-ups of the same moment
   * are one load); null: nothing.
   *
   * Throws or rejects with TrustLostError (UNAVAILABLE, TRUST_LOST) when this process cannot know, with BusyError when
   * too many keys wait, and with what the load throws. What `beforeLoad` throws is thrown instead of a load.
   */
  get(key: string, beforeLoad?: () => void): V | null | Promise<V | null>;
  /**
   * Told of each announced key, remembered or not. When announcements may have been missed, told of every key that is
   * remembered or watched. Returns how to stop it.
   */
  onForgotten(listener: (key: string) => void): () => void;
  /**
   * Told whenever the key is announced, or an announcement of it may have been missed, for as long as it is watched;
   * and again and again while this process would not hear of it. For what stays open on the word of a key. Returns how
   * to stop it.
   */
  watch(key: string, listener: () => void): () => void;
}

/** How a memory loads. */
export interface MemoryOptions<V> {
  /** Read the keys anew, in a transaction of its own. A key that is not in the answer holds nothing. */
  load: (keys: readonly string[]) => Promise<ReadonlyMap<string, V>>;
  /** Most keys that are remembered with a value. A quarter as many are remembered to hold nothing. */
  entriesMax: number;
}

/** What a memory did so far. */
export interface MemoryCounts {
  hits: number;
  loads: number;
  /** Answered with TrustLostError. */
  refusals: number;
}

interface Waiting<V> {
  promise: Promise<V | null>;
  resolve: (value: V | null) => void;
  reject: (error: unknown) => void;
}

/** A load under way. */
interface Flight<V> {
  keys: Map<string, Waiting<V>>;
  /** Its answer for these may be from before an announcement. */
  forgotten: Set<string>;
  isForgotten: boolean;
}

const flightsMax = 4;
const batchMax = 500;
const waitingMax = 20_000;
const loadMsMax = 5_000;
const distrustedLoadMsMax = 1_000;
/** After a failed load in distrust, nobody asks the database for this long. */
const refuseMs = 500;

/** What a memory asks of whoever keeps it true. */
export interface MemoryKeeper {
  /** Whether it may answer from memory at this moment. */
  isHeld: () => boolean;
  onError: (error: unknown) => void;
}

/**
 * A memory of one topic.
 *
 * No load that began before an announcement leaves anything behind after it: forgetting marks the loads under way,
 * whose answers then go only to those who asked before. Without trust every question is a new load, which nobody
 * joins once it is under way: it may have read what was, and whoever asks later must not hear it.
 */
export class TopicMemory<V> implements Memory<V> {
  readonly counts: MemoryCounts = { hits: 0, loads: 0, refusals: 0 };
  readonly #load: MemoryOptions<V>["load"];
  readonly #keeper: MemoryKeeper;
  readonly #held: LruMap<V>;
  /** Keys that hold nothing. Apart, so that made-up keys push out nothing but each other. */
  readonly #missing: LruMap<true>;
  readonly #told: Told;
  readonly #flights = new Set<Flight<V>>();
  #queued = new Map<string, Waiting<V>>();
  #isFlushSet = false;
  #refuseUntil = 0;

  constructor({ load, entriesMax }: MemoryOptions<V>, keeper: MemoryKeeper) {
    this.#load = load;
    this.#keeper = keeper;
    this.#held = createLruMap(entriesMax);
    this.#missing = createLruMap(Math.ceil(entriesMax / 4));
    this.#told = createTold(keeper.onError);
  }

  get(key: string, beforeLoad?: () => void): V | null | Promise<V | null> {
    if (!this.#keeper.isHeld()) {
      beforeLoad?.();
      const isRefused = performance.now() < this.#refuseUntil;
      return (isRefused ? undefined : this.#ask(key)) ?? Promise.reject(this.#lost());
    }
    const value = this.#held.get(key);
    if (value !== undefined) {
      this.counts.hits += 1;
      return value;
    }
    if (this.#missing.get(key)) {
      this.counts.hits += 1;
      return null;
    }
    beforeLoad?.();
    return (
      this.#underWay(key) ??
      this.#ask(key) ??
      Promise.reject(new BusyError(`Cannot wait: ${waitingMax} keys wait`))
    );
  }

  onForgotten(listener: (key: string) => void): () => void {
    return this.#told.onForgotten(listener);
  }

  watch(key: string, listener: () => void): () => void {
    return this.#told.watch(key, listener);
  }

  /** How many keys are remembered, with or without a value. */
  get size(): number {
    return this.#held.size + this.#missing.size;
  }

  /** Forget what an announcement names. */
  forget(keys: readonly string[]): void {
    for (const key of keys) {
      this.#held.delete(key);
      this.#missing.delete(key);
      for (const flight of this.#flights) {
        flight.forgotten.add(key);
      }
    }
    this.#told.tell(keys);
  }

  /** Forget everything: announcements may have been missed. */
  forgetAll(): void {
    const keys = new Set([...this.#held.keys(), ...this.#missing.keys(), ...this.#told.watched()]);
    this.#held.clear();
    this.#missing.clear();
    for (const flight of this.#flights) {
      flight.isForgotten = true;
    }
    this.#told.tell(keys);
  }

  /** Tell whoever watches a key to ask again: announcements are not heard now. */
  tellWatchers(): void {
    this.#told.tellWatchers();
  }

  /** The answer of a load under way that may still be remembered. */
  #underWay(key: string): Promise<V | null> | undefined {
    for (const { keys, forgotten, isForgotten } of this.#flights) {
      const waiting = keys.get(key);
      if (waiting !== undefined && !isForgotten && !forgotten.has(key)) {
        return waiting.promise;
      }
    }
    return undefined;
  }

  /** Load with the others of this moment. Undefined: too many wait. */
  #ask(key: string): Promise<V | null> | undefined {
    const found = this.#queued.get(key);
    if (found !== undefined || this.#queued.size >= waitingMax) {
      return found?.promise;
    }
    const waiting = Promise.withResolvers<V | null>();
    // Whoever asked may have gone: a failure that nobody hears is no failure of the process.
    waiting.promise.catch(() => {});
    this.#queued.set(key, waiting);
    if (!this.#isFlushSet) {
      this.#isFlushSet = true;
      setImmediate(() => this.#flush());
    }
    return waiting.promise;
  }

  #flush(): void {
    this.#isFlushSet = false;
    while (this.#queued.size > 0 && this.#flights.size < flightsMax) {
      void this.#fly(this.#takeBatch());
    }
  }

  #takeBatch(): Map<string, Waiting<V>> {
    const all = this.#queued;
    if (all.size <= batchMax) {
      this.#queued = new Map();
      return all;
    }
    const batch = new Map([...all].slice(0, batchMax));
    for (const key of batch.keys()) {
      all.delete(key);
    }
    return batch;
  }

  async #fly(keys: Map<string, Waiting<V>>): Promise<void> {
    const flight = { keys, forgotten: new Set<string>(), isForgotten: false };
    this.#flights.add(flight);
    this.counts.loads += 1;
    try {
      const ms = this.#keeper.isHeld() ? loadMsMax : distrustedLoadMsMax;
      const found = await inTime(this.#load([...keys.keys()]), { ms, what: "the database" });
      this.#refuseUntil = 0;
      this.#land(flight, found);
    } catch (error) {
      this.#fail(keys, error);
    } finally {
      this.#flights.delete(flight);
      this.#flush();
    }
  }

  #land({ keys, forgotten, isForgotten }: Flight<V>, found: ReadonlyMap<string, V>): void {
    for (const [key, { resolve }] of keys) {
      const value = found.get(key) ?? null;
      if (!isForgotten && !forgotten.has(key)) {
        this.#keep(key, value);
      }
      resolve(value);
    }
  }

  #keep(key: string, value: V | null): void {
    if (value === null) {
      this.#held.delete(key);
      this.#missing.set(key, true);
    } else {
      this.#missing.delete(key);
      this.#held.set(key, value);
    }
  }

  #fail(keys: Map<string, Waiting<V>>, error: unknown): void {
    if (this.#keeper.isHeld()) {
      for (const { reject } of keys.values()) {
        reject(error);
      }
      return;
    }
    this.#refuseUntil = performance.now() + refuseMs;
    for (const { reject } of [...keys.values(), ...this.#queued.values()]) {
      reject(this.#lost(error));
    }
    this.#queued.clear();
  }

  #lost(cause?: unknown): TrustLostError {
    this.counts.refusals += 1;
    return new TrustLostError(cause);
  }
}

/** Those who want to hear of forgotten keys. */
type Told = ReturnType<typeof createTold>;

function createTold(onError: (error: unknown) => void) {
  const listeners = new Set<{ listener: (key: string) => void }>();
  const watchers = new Map<string, Set<{ listener: () => void }>>();

  function call(listener: () => void) {
    try {
      listener();
    } catch (error) {
      onError(error);
    }
  }

  function tellWatchersOf(key: string) {
    for (const { listener } of [...(watchers.get(key) ?? [])]) {
      call(listener);
    }
  }

  return {
    watched: () => watchers.keys(),
    tell(keys: Iterable<string>) {
      for (const key of keys) {
        for (const { listener } of listeners) {
          call(() => listener(key));
        }
        tellWatchersOf(key);
      }
    },
    tellWatchers() {
      for (const key of [...watchers.keys()]) {
        tellWatchersOf(key);
      }
    },
    onForgotten(listener: (key: string) => void) {
      const entry = { listener };
      listeners.add(entry);
      return () => void listeners.delete(entry);
    },
    watch(key: string, listener: () => void) {
      const entry = { listener };
      const all = watchers.get(key) ?? new Set();
      watchers.set(key, all.add(entry));
      return () => {
        all.delete(entry);
        if (all.size === 0 && watchers.get(key) === all) {
          watchers.delete(key);
        }
      };
    },
  };
}
