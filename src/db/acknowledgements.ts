import { inTime } from "../lib/in-time.ts";
import type { Database } from "./database.ts";
import { deleteUnmoved, type Laggard, listLaggards } from "./processes.ts";

/** Waits until the processes have forgotten what was announced. */
export interface Acknowledgements {
  /** Resolves once every process has acknowledged the epoch, and after the lease at the latest. */
  wait(epoch: bigint): Promise<void>;
  /** Let those who wait go on waiting for the lease alone, and stop asking the database. */
  stop(): Promise<void>;
}

interface Waiter {
  epoch: bigint;
  done: () => void;
}

const pollMsMin = 2;
const pollMsMax = 20;
const pollReplyMsMax = 1_000;

/** Ask the database for all who wait at once, and only while somebody waits. */
export function createAcknowledgements({
  db,
  leaseMs,
  onError,
}: {
  db: Pick<Database, "systemTransaction">;
  leaseMs: number;
  onError: (error: unknown) => void;
}): Acknowledgements {
  const waiters = new Set<Waiter>();
  // Since when, by our clock, a process's heart has not beaten. By its id.
  const unmoved = new Map<string, { beat: bigint; since: number }>();
  let polling: Promise<void> | undefined;
  let epochMax = 0n;
  let waitedAt = 0;
  let isStopped = false;

  /** While somebody waits, and then until it is known which processes are dead. */
  function isNeeded(): boolean {
    const isRecent = performance.now() - waitedAt < leaseMs * 3;
    return !isStopped && (waiters.size > 0 || (unmoved.size > 0 && isRecent));
  }

  async function poll() {
    let ms = pollMsMin;
    while (isNeeded()) {
      try {
        await inTime(look(), { ms: pollReplyMsMax, what: "the acknowledgements" });
      } catch (error) {
        // The lease bounds the wait without the database too.
        onError(error);
        unmoved.clear();
      }
      await new Promise((resolve) => setTimeout(resolve, ms));
      ms = Math.min(ms * 2, pollMsMax);
    }
    unmoved.clear();
    polling = undefined;
  }

  async function look() {
    // Only those whose commit came before this look.
    const asking = [...waiters];
    if (asking.length > 0) {
      epochMax = asking.reduce((max, { epoch }) => (epoch > max ? epoch : max), 0n);
    }
    const laggards = await db.systemTransaction((tx) => listLaggards(tx, epochMax));
    const behind = laggards.reduce(
      (min, { acknowledged }) => (acknowledged < min ? acknowledged : min),
      epochMax,
    );
    for (const { epoch, done } of asking) {
      if (epoch <= behind) {
        done();
      }
    }
    await forgetDead(laggards);
  }

  /** A process that did not beat for a lease is past its own deadline: nobody needs to wait for it again. */
  async function forgetDead(laggards: readonly Laggard[]) {
    const now = performance.now();
    const ids = new Set(laggards.map(({ id }) => id));
    for (const id of unmoved.keys()) {
      if (!ids.has(id)) {
        unmoved.delete(id);
      }
    }
    for (const laggard of laggards) {
      const seen = unmoved.get(laggard.id);
      if (seen?.beat !== laggard.beat) {
        unmoved.set(laggard.id, { beat: laggard.beat, since: now });
      } else if (now - seen.since > leaseMs) {
        await db.systemTransaction((tx) => deleteUnmoved(tx, laggard));
        unmoved.delete(laggard.id);
      }
    }
  }

  return {
    wait(epoch) {
      const { promise, resolve } = Promise.withResolvers<void>();
      const waiter = { epoch, done };
      const timer = setTimeout(done, leaseMs);
      function done() {
        clearTimeout(timer);
        waiters.delete(waiter);
        resolve();
      }
      waiters.add(waiter);
      waitedAt = performance.now();
      polling ??= poll();
      return promise;
    },
    async stop() {
      isStopped = true;
      await polling;
    },
  };
}
