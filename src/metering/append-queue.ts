import { ConnectError } from "@connectrpc/connect";
import { ErrorInfoSchema } from "../../gen/google/rpc/error_details_pb.ts";
import { unavailable } from "../rpc/errors.ts";
import type { Entry, Place, UsageEntry } from "./entry.ts";
import type { AppendSink, Receipt } from "./journal.ts";
import { isDenied } from "./refusal.ts";

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
  /**
   * Append one, and tell its sink in the turn of the commit, or of the refusal. One that may wait is not committed at
   * once, unless others are that may not.
   */
  push(entry: UsageEntry, sink: AppendSink, isStrict: boolean, mayWait?: boolean): void;
  /** What is not durable yet: how much, and since when its oldest waits. */
  readonly waiting: { readonly entries: number; readonly oldestMs: number };
}

/** What is to be committed together. */
export interface Batch {
  entries: readonly Entry[];
  /** Those of the entries that are written only under the lease which they name. */
  strict: ReadonlySet<Entry>;
}

/** Where entries of a batch stand. Null: a strict one whose lease was over. */
export interface Committed {
  places: readonly (Place | null)[];
  applied: bigint;
}

/** One who waits: with several entries and a promise, or with one and a sink. */
interface Waiting {
  readonly entries: readonly Entry[];
  readonly bytes: number;
  readonly since: number;
  readonly isStrict: boolean;
  /** Hear of a commit whose places from `begin` on are those of its entries. */
  settle(committed: Committed, begin: number, leaseEnded: () => Error): void;
  refuse(error: unknown): void;
}

class Appended implements Waiting {
  readonly entries: readonly Entry[];
  readonly bytes: number;
  readonly since = performance.now();
  readonly isStrict = false;
  readonly promise: Promise<Receipt>;
  #resolve!: (receipt: Receipt) => void;
  refuse!: (error: unknown) => void;

  constructor(entries: readonly Entry[], bytes: number) {
    this.entries = entries;
    this.bytes = bytes;
    this.promise = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.refuse = reject;
    });
  }

  settle({ places, applied }: Committed, begin: number, leaseEnded: () => Error): void {
    const own = places.slice(begin, begin + this.entries.length);
    const written = own.filter((place) => place !== null);
    if (written.length === own.length) {
      this.#resolve({ position: lastOf(written), places: written, applied });
    } else {
      this.refuse(leaseEnded());
    }
  }
}

class Pushed implements Waiting {
  readonly entries: readonly [UsageEntry];
  readonly bytes: number;
  readonly since = performance.now();
  readonly isStrict: boolean;
  readonly #sink: AppendSink;

  constructor(entry: UsageEntry, bytes: number, sink: AppendSink, isStrict: boolean) {
    this.entries = [entry];
    this.bytes = bytes;
    this.isStrict = isStrict;
    this.#sink = sink;
  }

  settle({ places }: Committed, begin: number, leaseEnded: () => Error): void {
    const place = places[begin];
    if (place === null || place === undefined) {
      this.#sink.onRefused(leaseEnded());
    } else {
      this.#sink.onDurable(place.position);
    }
  }

  refuse(error: unknown): void {
    this.#sink.onRefused(error);
  }
}

/** How long those wait for others who may: a commit costs the database much the same for one as for a hundred. */
const gatherMs = 5;

/**
 * So many appends that shared a commit press: the next one begins no sooner than so long after it did. What the database
 * and this process take for a commit would else be taken from those who wait for it. What is pushed never waits for that.
 */
const pressFrom = 16;
const pressedMs = 4;

/**
 * Make a queue in front of `commit`, which writes entries durably, and is called again only when it has answered: the
 * journal's commits wait for each other anyway, and what comes meanwhile shares the next one.
 */
export function createAppendQueue(
  {
    commit,
    leaseEnded,
  }: {
    commit: (batch: Batch) => Promise<Committed>;
    /** What those are told whose strict entries were not written. */
    leaseEnded: () => Error;
  },
  limits: QueueLimits,
): AppendQueue {
  let queue: Waiting[] = [];
  let committing: readonly Waiting[] = [];
  let entriesWaiting = 0;
  let bytesWaiting = 0;
  let isCommitting = false;
  /** Before then no commit begins. */
  let restUntil = 0;
  /** When the queue is to be committed, all of it. */
  let dueMs = Number.POSITIVE_INFINITY;
  let gathering: NodeJS.Timeout | undefined;
  let gatheredAt = 0;
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
    while (queue.length > 0 && Math.max(dueMs, restUntil) <= performance.now()) {
      committing = take(countFitting(queue, limits));
      restUntil = isPress(committing) ? performance.now() + pressedMs : 0;
      dueMs = queue.length === 0 ? Number.POSITIVE_INFINITY : dueMs;
      const batch = committing;
      try {
        const committed = await commit(toBatch(batch));
        committing = [];
        settle(batch, committed, leaseEnded);
      } catch (error) {
        committing = [];
        refuseAll(batch, error);
      }
    }
    isCommitting = false;
    commitInTime();
  }

  /** Begin to commit, now or when it is due. */
  function commitInTime() {
    if (queue.length === 0 || isCommitting) {
      return;
    }
    const ms = Math.max(dueMs, restUntil) - performance.now();
    if (ms > 0) {
      wakeIn(ms);
      return;
    }
    clearTimeout(gathering);
    gathering = undefined;
    isCommitting = true;
    // Once all that was read with it has come, too.
    setImmediate(() => void commitAll());
  }

  function wakeIn(ms: number) {
    const at = performance.now() + ms;
    if (gathering === undefined || at < gatheredAt) {
      clearTimeout(gathering);
      gatheredAt = at;
      gathering = setTimeout(() => {
        gathering = undefined;
        commitInTime();
      }, ms);
    }
  }

  /** Refuse what has waited too long, and look again when the next one will have. */
  function refuseLate() {
    timer = undefined;
    const end = performance.now() - limits.waitMs;
    const late = queue.findIndex(({ since }) => since > end);
    refuseAll(take(late === -1 ? queue.length : late), busy());
    watch();
  }

  function watch() {
    const oldest = queue[0];
    if (timer === undefined && oldest !== undefined) {
      const ms = Math.max(1, oldest.since + limits.waitMs - performance.now());
      timer = setTimeout(refuseLate, ms).unref();
    }
  }

  function hasRoom(entries: number, bytes: number): boolean {
    return entriesWaiting + entries <= limits.entriesMax && bytesWaiting + bytes <= limits.bytesMax;
  }

  function enqueue(one: Waiting, mayWait: boolean) {
    entriesWaiting += one.entries.length;
    bytesWaiting += one.bytes;
    queue.push(one);
    dueMs = Math.min(dueMs, mayWait ? one.since + gatherMs : one.since);
    if (isCommitting) {
      watch();
    } else {
      commitInTime();
    }
  }

  return {
    append(entries) {
      const bytes = entries.reduce((sum, entry) => sum + sizeOf(entry), 0);
      if (!hasRoom(entries.length, bytes)) {
        return Promise.reject(busy());
      }
      const one = new Appended(entries, bytes);
      enqueue(one, false);
      return one.promise;
    },
    push(entry, sink, isStrict, mayWait = false) {
      const bytes = sizeOf(entry);
      const one = new Pushed(entry, bytes, sink, isStrict);
      if (hasRoom(1, bytes)) {
        restUntil = mayWait ? restUntil : 0;
        enqueue(one, mayWait);
      } else {
        // Never before this returns: the caller is not ready to hear of it.
        setImmediate(() => refuseAll([one], busy()));
      }
    },
    get waiting() {
      const oldest = committing[0] ?? queue[0];
      const oldestMs = oldest === undefined ? 0 : performance.now() - oldest.since;
      const running = committing.reduce((sum, { entries }) => sum + entries.length, 0);
      return { entries: entriesWaiting + running, oldestMs };
    },
  };
}

function isPress(batch: readonly Waiting[]): boolean {
  return batch.length >= pressFrom && batch.every((one) => one instanceof Appended);
}

function toBatch(all: readonly Waiting[]): Batch {
  const entries: Entry[] = [];
  const strict = new Set<Entry>();
  for (const { entries: own, isStrict } of all) {
    for (const entry of own) {
      entries.push(entry);
      if (isStrict) {
        strict.add(entry);
      }
    }
  }
  return { entries, strict };
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

/** Tell each of a commit where its own entries stand. Only strict ones, which are alone, may be missing. */
function settle(batch: readonly Waiting[], committed: Committed, leaseEnded: () => Error): void {
  let begin = 0;
  for (const one of batch) {
    try {
      one.settle(committed, begin, leaseEnded);
    } catch (error) {
      throwLater(error);
    }
    begin += one.entries.length;
  }
}

function refuseAll(batch: readonly Waiting[], error: unknown): void {
  for (const one of batch) {
    try {
      one.refuse(error);
    } catch (thrown) {
      throwLater(thrown);
    }
  }
}

/** What one of them throws must not keep the others from hearing: it is thrown where nothing depends on it. */
function throwLater(error: unknown): void {
  setImmediate(() => {
    throw error;
  });
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

const busyReason = "JOURNAL_BUSY";

function busy() {
  return unavailable(busyReason, "Cannot take more events: too many wait to be written");
}

/** Whether it is certain that nothing of an event was written: the journal took no more, or the database denied it. */
export function isUnwritten(error: unknown): boolean {
  const isBusy =
    error instanceof ConnectError &&
    error.findDetails(ErrorInfoSchema).some(({ reason }) => reason === busyReason);
  return isBusy || isDenied(error);
}
