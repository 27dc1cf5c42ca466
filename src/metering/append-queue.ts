import { unavailable } from "../rpc/errors.ts";
import type { Entry, Place } from "./entry.ts";
import type { Receipt } from "./journal.ts";

/** How much may wait for a commit, and for how long. What goes beyond is refused, never lost. */
export interface QueueLimits {
  entriesMax: number;
  bytesMax: number;
  /** For its commit to begin. */
  waitMs: number;
  /** Most entries of a commit, unless one append has more. */
  commitEntriesMax: number;
  /** Most bytes of a commit, unless one append has more. */
  commitBytesMax: number;
}

/** Appends entries, those of the same moment in one commit. */
export interface AppendQueue {
  /** Rejects with UNAVAILABLE, reason JOURNAL_BUSY, when too much waits, and with what the commit throws. */
  append(entries: readonly Entry[]): Promise<Receipt>;
}

interface Waiting {
  entries: readonly Entry[];
  bytes: number;
  since: number;
  resolve(receipt: Receipt): void;
  reject(error: unknown): void;
}

/**
 * Make a queue in front of `commit`, which writes entries durably, and is called again only when it has answered: the
 * journal's commits wait for each other anyway, and what comes meanwhile shares the next one.
 */
export function createAppendQueue(
  { commit }: { commit: (entries: readonly Entry[]) => Promise<Receipt> },
  limits: QueueLimits,
): AppendQueue {
  let queue: Waiting[] = [];
  let entriesWaiting = 0;
  let bytesWaiting = 0;
  let isCommitting = false;
  let timer: NodeJS.Timeout | undefined;

  function take(count: number): Waiting[] {
    const taken = queue.slice(0, count);
    queue = queue.slice(count);
    for (const { entries, bytes } of taken) {
      entriesWaiting -= entries.length;
      bytesWaiting -= bytes;
    }
    return taken;
  }

  async function commitAll() {
    while (queue.length > 0) {
      const batch = take(countFitting(queue, limits));
      try {
        settle(batch, await commit(batch.flatMap(({ entries }) => entries)));
      } catch (error) {
        for (const { reject } of batch) {
          reject(error);
        }
      }
    }
    isCommitting = false;
  }

  /** Refuse what has waited too long, and look again when the next one will have. */
  function refuseLate() {
    timer = undefined;
    const end = performance.now() - limits.waitMs;
    const late = queue.findIndex(({ since }) => since > end);
    for (const { reject } of take(late === -1 ? queue.length : late)) {
      reject(busy());
    }
    watch();
  }

  function watch() {
    const oldest = queue[0];
    if (timer === undefined && oldest !== undefined) {
      const ms = Math.max(1, oldest.since + limits.waitMs - performance.now());
      timer = setTimeout(refuseLate, ms).unref();
    }
  }

  return {
    append(entries) {
      const bytes = entries.reduce((sum, entry) => sum + sizeOf(entry), 0);
      const isTooMany = entriesWaiting + entries.length > limits.entriesMax;
      if (isTooMany || bytesWaiting + bytes > limits.bytesMax) {
        return Promise.reject(busy());
      }
      entriesWaiting += entries.length;
      bytesWaiting += bytes;
      return new Promise((resolve, reject) => {
        queue.push({ entries, bytes, since: performance.now(), resolve, reject });
        if (isCommitting) {
          watch();
        } else {
          isCommitting = true;
          // Once all that was read with it has come, too.
          setImmediate(() => void commitAll());
        }
      });
    },
  };
}

function countFitting(queue: readonly Waiting[], limits: QueueLimits): number {
  let entries = 0;
  let bytes = 0;
  let count = 0;
  for (const one of queue) {
    entries += one.entries.length;
    bytes += one.bytes;
    if (count > 0 && (entries > limits.commitEntriesMax || bytes > limits.commitBytesMax)) {
      break;
    }
    count += 1;
  }
  return count;
}

/** Tell each of a commit where its own entries stand. */
function settle(batch: readonly Waiting[], { places, applied }: Receipt): void {
  let begin = 0;
  for (const { entries, resolve } of batch) {
    const own = places.slice(begin, begin + entries.length);
    begin += entries.length;
    resolve({ position: lastOf(own), places: own, applied });
  }
}

/** The last position of some places. */
export function lastOf(places: readonly Place[]): bigint {
  return places.reduce((max, { position }) => (position > max ? position : max), 0n);
}

const entryBytes = 300;

/** About what an entry takes in memory. */
function sizeOf(entry: Entry): number {
  return entryBytes + ("data" in entry ? entry.data.length : entry.reason.length);
}

function busy() {
  return unavailable("JOURNAL_BUSY", "Cannot take more events: too many wait to be written");
}
