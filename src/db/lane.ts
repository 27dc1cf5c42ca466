import type { Queries } from "./pool.ts";

/** A connection that statements have one after the other, without giving it back in between. */
export interface Lane {
  /** Run a statement, which commits by itself. Undefined: another one is under way. Rejects with what it throws. */
  run<T>(work: (db: Queries) => Promise<T>): Promise<T> | undefined;
  /** Give the connection back. */
  end(): Promise<void>;
}

interface Held {
  db: Promise<Queries>;
  giveBack(): void;
  /** Settles once it is given back. */
  isBack: Promise<void>;
}

/** After so long without a statement the connection is given back. */
const idleMs = 1_000;

/**
 * Make a lane. `connect` gives a connection for as long as the work takes.
 *
 * A connection that is given back is reset, and whoever asked waits for that round trip: statements that come one
 * after the other need not, since none of them leaves anything behind. One that fails may have lost the connection,
 * so the next one asks for another.
 */
export function createLane(connect: (work: (db: Queries) => Promise<void>) => Promise<void>): Lane {
  let held: Held | undefined;
  let isBusy = false;
  const timer = setTimeout(leave, idleMs).unref();

  function enter(): Held {
    const ready = Promise.withResolvers<Queries>();
    const over = Promise.withResolvers<void>();
    const isBack = connect((db) => {
      ready.resolve(db);
      return over.promise;
    }).catch(ready.reject);
    return { db: ready.promise, giveBack: over.resolve, isBack };
  }

  function leave() {
    if (!isBusy) {
      held?.giveBack();
      held = undefined;
    }
  }

  async function run<T>(work: (db: Queries) => Promise<T>): Promise<T> {
    isBusy = true;
    const own = held ?? enter();
    held = own;
    try {
      return await work(await own.db);
    } catch (error) {
      own.giveBack();
      held = undefined;
      throw error;
    } finally {
      isBusy = false;
      timer.refresh();
    }
  }

  return {
    run: (work) => (isBusy ? undefined : run(work)),
    async end() {
      clearTimeout(timer);
      held?.giveBack();
      await held?.isBack;
    },
  };
}
