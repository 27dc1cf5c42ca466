import type { Http2Session } from "node:http2";
import { types } from "node:util";

/**
 * Have Node keep a new session's open streams in a table that does not hold on to closed ones.
 *
 * Node keeps them in a Map. When a Map of V8 moves to another table, the table that it leaves goes on naming what was in
 * it, and links to the next one. So, once one that was left is among the old objects, all later ones become old objects,
 * too, with the streams that were open at each move: most of them, as there is a move every few dozen. They come to a
 * kilobyte a call, which only a full collection frees, with a pause that every running call waits for.
 *
 * A Node that keeps its streams in another way is left as it is.
 */
export function replaceStreamTable(session: Http2Session): void {
  const state = stateOf(session);
  if (types.isMap(state?.streams) && state.streams.size === 0) {
    state.streams = new OpenStreams();
  }
}

/** What Node knows of a session, under a symbol of its own. */
function stateOf(session: Http2Session): { streams?: unknown } | undefined {
  const symbol = Object.getOwnPropertySymbols(session).find(
    ({ description }) => description === "state",
  );
  const state: unknown = symbol && Reflect.get(session, symbol);
  return typeof state === "object" && state !== null ? state : undefined;
}

/** Streams by their ids, with all of a Map that Node asks for. */
class OpenStreams {
  #streams: Record<number, unknown> = Object.create(null);
  size = 0;

  get(id: number): unknown {
    return this.#streams[id];
  }

  set(id: number, stream: unknown): this {
    if (!(id in this.#streams)) {
      this.size++;
    }
    this.#streams[id] = stream;
    return this;
  }

  delete(id: number): boolean {
    const isIn = id in this.#streams;
    if (isIn) {
      this.size--;
      delete this.#streams[id];
    }
    return isIn;
  }

  forEach(visit: (stream: unknown) => void): void {
    Object.values(this.#streams).forEach(visit);
  }
}
