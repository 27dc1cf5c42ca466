import type { Http2Stream } from "./stream.ts";

/**
 * The open streams of a connection, by their ids.
 *
 * Not a Map: when one of V8 moves to another table, the table that it leaves goes on naming what was in it, and links to
 * the next one. So, once one that was left is among the old objects, all later ones become old objects, too, with the
 * streams that were open at each move: most of them, as there is a move every few dozen. They come to a kilobyte a call,
 * which only a full collection frees, with a pause that every running call waits for.
 */
export class StreamTable {
  readonly #streams: Record<number, Http2Stream> = Object.create(null);
  size = 0;

  get(id: number): Http2Stream | undefined {
    return this.#streams[id];
  }

  /** Add one that is not in. */
  add(stream: Http2Stream): void {
    this.#streams[stream.id] = stream;
    this.size += 1;
  }

  /** Take out one that is in. */
  delete(stream: Http2Stream): void {
    delete this.#streams[stream.id];
    this.size -= 1;
  }

  /** As they are now, the oldest first. */
  all(): Http2Stream[] {
    return Object.values(this.#streams);
  }
}
