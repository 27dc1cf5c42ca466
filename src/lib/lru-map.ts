import assert from "node:assert";

/** A map of bounded size: a new entry past it drops the one that was not used for longest. */
export interface LruMap<V> {
  readonly size: number;
  /** The value, which counts as used now; undefined: there is none. */
  get(key: string): V | undefined;
  set(key: string, value: V): void;
  delete(key: string): void;
  clear(): void;
  keys(): Iterable<string>;
}

const noSlot = 0;

/**
 * Make a map of up to `entriesMax` entries. Every operation but `clear` takes constant time.
 *
 * The order of use lies in two arrays of numbers, not in the order of a Map: taking the first key of a Map from which
 * many were deleted walks over all the gaps. An entry costs 50 to 90 bytes besides its key and its value.
 */
export function createLruMap<V>(entriesMax: number): LruMap<V> {
  assert(Number.isSafeInteger(entriesMax) && entriesMax > 0 && entriesMax <= 10_000_000);
  const slots = new Map<string, number>();
  // Slot 0 is no entry: its `newer` is the oldest, its `older` the newest. Free slots hang together by `newer`.
  const newer = new Int32Array(entriesMax + 1);
  const older = new Int32Array(entriesMax + 1);
  let keys: string[] = [""];
  let values: (V | undefined)[] = [undefined];
  let firstFree = noSlot;

  function link(slot: number) {
    const newest = older[noSlot] ?? noSlot;
    older[slot] = newest;
    newer[slot] = noSlot;
    newer[newest] = slot;
    older[noSlot] = slot;
  }

  function unlink(slot: number) {
    const before = older[slot] ?? noSlot;
    const after = newer[slot] ?? noSlot;
    newer[before] = after;
    older[after] = before;
  }

  function drop(slot: number) {
    slots.delete(keys[slot] ?? "");
    unlink(slot);
    keys[slot] = "";
    values[slot] = undefined;
    newer[slot] = firstFree;
    firstFree = slot;
  }

  function takeSlot(): number {
    if (slots.size >= entriesMax) {
      drop(newer[noSlot] ?? noSlot);
    }
    if (firstFree === noSlot) {
      return keys.length;
    }
    const slot = firstFree;
    firstFree = newer[slot] ?? noSlot;
    return slot;
  }

  return {
    get size() {
      return slots.size;
    },
    get(key) {
      const slot = slots.get(key);
      if (slot === undefined) {
        return undefined;
      }
      if (older[noSlot] !== slot) {
        unlink(slot);
        link(slot);
      }
      return values[slot];
    },
    set(key, value) {
      const found = slots.get(key);
      if (found !== undefined) {
        unlink(found);
      }
      const slot = found ?? takeSlot();
      slots.set(key, slot);
      keys[slot] = key;
      values[slot] = value;
      link(slot);
    },
    delete(key) {
      const slot = slots.get(key);
      if (slot !== undefined) {
        drop(slot);
      }
    },
    clear() {
      slots.clear();
      keys = [""];
      values = [undefined];
      newer[noSlot] = noSlot;
      older[noSlot] = noSlot;
      firstFree = noSlot;
    },
    keys: () => slots.keys(),
  };
}
