import { randomUUID } from "node:crypto";
import { createAcknowledgements } from "./acknowledgements.ts";
import { type Announcement, channel, toPayloads } from "./announcement.ts";
import type { Database } from "./database.ts";
import { leaseMsDefault, startLease } from "./lease.ts";
import { type Memory, type MemoryCounts, type MemoryOptions, TopicMemory } from "./memory.ts";
import type { Tx } from "./pool.ts";
import { incrementEpoch, notify } from "./processes.ts";

/**
 * Keeps what processes remember of the database true.
 *
 * Whoever changes what others may remember announces it in the transaction of the change, and waits for `settled`
 * after the commit. No question that begins after that is answered, on any process, with what was before.
 *
 * Why that holds:
 *
 * 1. An announcement counts up one row, whose lock is held until the commit: epochs are ordered as the commits are, and
 *    so are PostgreSQL's notifications. A process has applied an epoch when it has forgotten what all announcements up
 *    to it name, the loads under way included. A number that is skipped, or that a whole round trip did not bring,
 *    was missed: then everything is forgotten.
 * 2. A process answers from memory only before its deadline, which it counts on its own monotonic clock: a lease from
 *    before it sent a heartbeat, less a margin. The heartbeat counts only if everything up to the epoch that its reply
 *    names is applied when the reply is there. The heartbeat goes over the connection that listens, so that a dead
 *    listener cannot keep a lease.
 * 3. It remembers only what it began to load after its row in `processes` was committed, with nothing remembered
 *    before. So if it remembers what was before a commit, its row was there before that commit.
 * 4. After the commit, `settled` waits until each row acknowledges the epoch (it is applied there), or for a lease. A
 *    heartbeat sent before the commit has lost its force by then; one sent after it names the epoch, or a later one.
 *    So even without the database, waiting for a lease is enough.
 * 5. A row is deleted when its process stops; when its heart did not beat for a lease, by the monotonic clock of
 *    whoever waits; or when its lease ended a minute ago by the database's clock. Each is after its deadline. A
 *    process whose heartbeat finds no row forgets everything and enters again.
 * 6. Without a lease a process loads for each question, after it was asked, from the one database that commits. If it
 *    cannot, it says so (TrustLostError), and its callers refuse. What stays open asks again every lease.
 *
 * A question that began before `settled` resolved may be answered either way, however late: a process can be stopped
 * between the check of its deadline and the answer. A process that is stopped (SIGSTOP) and goes on later finds its
 * deadline passed, because the monotonic clock went on. What this trusts: clocks that run alike to a twentieth,
 * and hosts whose monotonic clock does not stand still while others go on, as that of a suspended one does.
 */
export interface Trust {
  /**
   * Announce, in the transaction of the change, that what is remembered under these keys of a topic no longer holds.
   * Returns the epoch to wait for.
   *
   * Call it last: from here to the commit nobody else can announce.
   */
  announce(tx: Tx, topic: string, keys: readonly string[]): Promise<bigint>;
  /** After the commit: resolves once no process can act on what was before, within a second. Never rejects. */
  settled(epoch: bigint): Promise<void>;
  /** A bounded memory of one topic, with misses; it forgets what is announced. */
  remember<V>(topic: string, options: MemoryOptions<V>): Memory<V>;
  stats(): TrustStats;
  /** Answer no more from memory, and let nobody wait for this process. */
  close(): Promise<void>;
}

/** What a process did with its trust so far. */
export interface TrustStats extends MemoryCounts {
  /** Whether it answers from memory now. */
  isHeld: boolean;
  /** How often it lost that right. */
  losses: number;
  /** How many keys it remembers. */
  entries: number;
}

/** Announces changes, for a process that remembers nothing itself. */
export type Announcer = Pick<Trust, "announce" | "settled" | "close">;

/** Make an announcer. */
export function createAnnouncer({
  db,
  leaseMs = leaseMsDefault,
  onError,
}: Pick<TrustOptions, "db" | "leaseMs" | "onError">): Announcer {
  const acknowledgements = createAcknowledgements({ db, leaseMs, onError });
  return {
    async announce(tx, topic, keys) {
      const epoch = await incrementEpoch(tx);
      for (const payload of toPayloads({ epoch, topic, keys })) {
        await notify(tx, channel, payload);
      }
      return epoch;
    },
    settled: (epoch) => acknowledgements.wait(epoch),
    close: () => acknowledgements.stop(),
  };
}

/** What trust is built from. */
export interface TrustOptions {
  db: Pick<Database, "systemTransaction">;
  /** Where to listen: past any pooler. */
  listenUrl: string;
  /** The same for all processes on a database: 900 ms unless set. */
  leaseMs?: number;
  /** Told what goes wrong and is tried again. */
  onError: (error: unknown) => void;
}

/**
 * Enter the process among those that answer from memory, and return when it is in, or when that did not work at once:
 * then every question is a load until it does.
 */
export async function openTrust({
  db,
  listenUrl,
  leaseMs = leaseMsDefault,
  onError,
}: TrustOptions): Promise<Trust> {
  const memories = new Map<string, Kept[]>();
  const all = () => [...memories.values()].flat();
  const lease = startLease({
    id: randomUUID(),
    url: listenUrl,
    leaseMs,
    forget({ topic, keys }: Announcement) {
      for (const memory of memories.get(topic) ?? []) {
        memory.forget(keys);
      }
    },
    forgetAll() {
      for (const memory of all()) {
        memory.forgetAll();
      }
    },
    onError,
  });
  const announcer = createAnnouncer({ db, leaseMs, onError });
  // What stays open would not hear that it must end. A hiccup that is over by the next round cuts nothing.
  let wasHeld = true;
  const timer = setInterval(() => {
    const isHeld = lease.isHeld();
    if (!isHeld && !wasHeld) {
      for (const memory of all()) {
        memory.tellWatchers();
      }
    }
    wasHeld = isHeld;
  }, leaseMs).unref();
  await lease.attempted;

  return {
    announce: announcer.announce,
    settled: announcer.settled,
    remember(topic, options) {
      const memory = new TopicMemory(options, { isHeld: lease.isHeld, onError });
      memories.set(topic, [...(memories.get(topic) ?? []), memory]);
      return memory;
    },
    stats: () => ({ ...sum(all()), isHeld: lease.isHeld(), losses: lease.losses }),
    async close() {
      clearInterval(timer);
      await lease.stop();
      await announcer.close();
    },
  };
}

/** What keeping a memory true needs of it, whatever it holds. */
type Kept = Pick<TopicMemory<unknown>, "counts" | "size" | "forget" | "forgetAll" | "tellWatchers">;

function sum(memories: readonly Kept[]) {
  const total = { hits: 0, loads: 0, refusals: 0, entries: 0 };
  for (const { counts, size } of memories) {
    total.hits += counts.hits;
    total.loads += counts.loads;
    total.refusals += counts.refusals;
    total.entries += size;
  }
  return total;
}
