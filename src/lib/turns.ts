import { setImmediate } from "node:timers/promises";

/** So long is worked before others have their turn. */
const turnMs = 2;

/** A turn of long work. */
export interface Turn {
  /** Say that an item is done. True: others should have their turn. */
  isOver(): boolean;
  /** Let others have their turn, and begin another one. */
  next(): Promise<void>;
}

/** Begin a turn. The clock is looked at after so many items. */
export function beginTurn(itemsMax = 32): Turn {
  let begun = performance.now();
  let count = 0;
  return {
    isOver() {
      count += 1;
      return count % itemsMax === 0 && performance.now() - begun > turnMs;
    },
    async next() {
      await setImmediate();
      begun = performance.now();
    },
  };
}

/**
 * Visit each item of a list that may be long, in order. Whatever else the process has to do comes in between: nobody
 * waits for more than a few milliseconds. Lists that are visited one after the other can share a turn.
 */
export async function inTurns<T>(
  items: readonly T[],
  visit: (item: T, index: number) => void,
  turn: Turn = beginTurn(),
): Promise<void> {
  let index = 0;
  for (const item of items) {
    visit(item, index);
    index += 1;
    if (turn.isOver()) {
      await turn.next();
    }
  }
}
