import type { Arrival } from "./arrival.ts";

/** A request whose reply has not ended. */
export interface Run {
  readonly arrival: Arrival;
  /** In which round of checks it began. */
  readonly round: number;
}

/**
 * The requests whose replies have not ended. Not a Map: one that entries come to and leave again goes on
 * to a new table all the time, and each old one keeps the next alive, with the requests in both, so that
 * none of them is collected while it is young.
 */
export class Running implements Iterable<Run> {
  readonly #runs: (Run & { at: number })[] = [];

  /** Keep a request until it ends. */
  add(arrival: Arrival, round: number): void {
    const run = { arrival, round, at: this.#runs.length };
    this.#runs.push(run);
    arrival.onceClosed(() => {
      const last = this.#runs.pop();
      if (last !== undefined && last !== run) {
        last.at = run.at;
        this.#runs[run.at] = last;
      }
    });
  }

  /** In no order. */
  [Symbol.iterator](): Iterator<Run> {
    return this.#runs.values();
  }
}
