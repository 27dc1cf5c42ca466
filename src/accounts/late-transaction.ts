import type { Database } from "../db/database.ts";
import type { Tx } from "../db/pool.ts";

/** Have something done right before the commit, after all statements of the transaction. */
export type AtLast = (work: (tx: Tx) => Promise<void>) => void;

/** Runs statements. Those that change something must say so. */
export interface Statements {
  read<T>(work: (tx: Tx) => Promise<T>): Promise<T>;
  write<T>(work: (tx: Tx, atLast: AtLast) => Promise<T>): Promise<T>;
}

/** Each statement in a transaction of its own. */
export function singleStatements(db: Database): Statements {
  return {
    read: (work) => db.systemTransaction(work),
    write: (work) =>
      db.systemTransaction(async (tx) => {
        // Here, since the transaction may be run again.
        const last: Last[] = [];
        const result = await work(tx, (one) => void last.push(one));
        await runAll(last, tx);
        return result;
      }),
  };
}

type Last = Parameters<AtLast>[0];

async function runAll(last: readonly Last[], tx: Tx): Promise<void> {
  for (const work of last) {
    await work(tx);
  }
}

/**
 * Run the work in one transaction that begins with its first change: what comes before, as hashing a password for
 * seconds, holds no connection. What is read before it is read on its own.
 */
export async function lateTransaction<T>(
  db: Database,
  work: (statements: Statements) => Promise<T>,
): Promise<T> {
  const done = Promise.withResolvers<void>();
  // It is waited for only once a transaction began.
  done.promise.catch(() => {});
  const last: Last[] = [];
  let opened: Promise<Tx> | undefined;
  let closed: Promise<void> | undefined;

  function open(): Promise<Tx> {
    const begun = Promise.withResolvers<Tx>();
    let isBegun = false;
    closed = db.systemTransaction(async (tx) => {
      if (isBegun) {
        throw new Error("Cannot run a late transaction again: its work is not repeated");
      }
      isBegun = true;
      begun.resolve(tx);
      await done.promise;
    });
    closed.catch(begun.reject);
    return begun.promise;
  }

  const statements: Statements = {
    async read(run) {
      return opened === undefined ? db.systemTransaction(run) : run(await opened);
    },
    async write(run) {
      opened ??= open();
      return run(await opened, (one) => void last.push(one));
    },
  };
  try {
    const result = await work(statements);
    if (opened !== undefined) {
      await runAll(last, await opened);
    }
    done.resolve();
    await closed;
    return result;
  } catch (error) {
    done.reject(error);
    await closed?.catch(() => {});
    throw error;
  }
}
