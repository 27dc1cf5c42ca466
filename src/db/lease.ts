import { type Announcement, channel, fromPayload } from "./announcement.ts";
import { type Connection, startListener } from "./listener.ts";
import { deleteDeadProcesses, deleteProcess, insertProcess, updateProcess } from "./processes.ts";

/** How long a process may answer from memory after it last sent a heartbeat that was answered. */
export const leaseMsDefault = 900;

const beatMs = 250;
/** A dead connection is noticed so late in a lease, from the beat that found it so: before its end. */
const replyShare = 2 / 3;
/** For clocks that do not run alike, and for the way from the check to the answer. */
const marginMs = 50;
const sweepMs = 60_000;

/** What this process may do with what it remembers. */
export interface Lease {
  /** Whether it may answer from memory at this moment. */
  isHeld(): boolean;
  /** Resolves when the lease is held for the first time, or the first attempt has failed. */
  attempted: Promise<void>;
  /** How often it was lost. */
  readonly losses: number;
  /** Stop answering from memory, and say so: nobody waits for this process any more. */
  stop(): Promise<void>;
}

/** What a lease is kept with. */
export interface LeaseOptions {
  id: string;
  url: string;
  leaseMs: number;
  /** Forget what an announcement names. When this returns, it is forgotten. */
  forget: (announcement: Announcement) => void;
  /** Forget everything: announcements may have been missed. */
  forgetAll: () => void;
  onError: (error: unknown) => void;
}

/** Keep a lease, over a connection of its own, until stopped. */
export function startLease(options: LeaseOptions): Lease {
  const keeper = new LeaseKeeper(options);
  const listener = startListener({
    url: options.url,
    channel,
    replyMsMax: options.leaseMs * replyShare,
    serve: (connection, signal) => keeper.serve(connection, signal),
    onNotification: (payload) => keeper.hear(payload),
    onDown: () => keeper.end(),
    onError: options.onError,
  });
  return {
    isHeld: () => keeper.isHeld(),
    attempted: keeper.attempted.promise,
    get losses() {
      return keeper.losses;
    },
    stop: () => listener.stop(),
  };
}

class LeaseKeeper {
  readonly #options: LeaseOptions;
  readonly attempted = Promise.withResolvers<void>();
  /** Whether its row is there, as far as it knows. */
  #isEntered = false;
  losses = 0;
  #deadline = 0;
  /** All that was announced up to this epoch is forgotten here. */
  #applied = 0n;
  /** What the last heartbeat acknowledged. */
  #acknowledged = 0n;
  /** What the reply to the last heartbeat said was committed. */
  #committed = 0n;
  #wake = () => {};

  constructor(options: LeaseOptions) {
    this.#options = options;
  }

  isHeld(): boolean {
    return performance.now() < this.#deadline;
  }

  /** Answer no more from memory. */
  end(): void {
    this.losses += this.#isEntered ? 1 : 0;
    this.#isEntered = false;
    this.#deadline = 0;
    this.attempted.resolve();
  }

  hear(payload: string): void {
    const announcement = fromPayload(payload);
    if (announcement === null || !this.#isEntered || announcement.epoch <= this.#applied) {
      return;
    }
    this.#options.forget(announcement);
    if (announcement.epoch > this.#applied + 1n) {
      this.#options.forgetAll();
    }
    if (announcement.isLast) {
      this.#applied = announcement.epoch;
      this.#wake();
    }
  }

  async serve(connection: Connection, signal: AbortSignal): Promise<void> {
    await this.#enter(connection, signal);
    let sweptAt = Number.NEGATIVE_INFINITY;
    while (!signal.aborted) {
      const isThere = await this.#beat(connection, signal);
      if (!isThere) {
        this.end();
        await this.#enter(connection, signal);
      }
      if (performance.now() - sweptAt > sweepMs) {
        sweptAt = performance.now();
        await deleteDeadProcesses(connection);
      }
      if (this.#applied === this.#acknowledged && this.#committed <= this.#applied) {
        await this.#nap(signal);
      }
    }
    this.end();
    await deleteProcess(connection, this.#options.id);
  }

  async #enter(connection: Connection, signal: AbortSignal): Promise<void> {
    const { id, leaseMs, forgetAll } = this.#options;
    const sentAt = performance.now();
    const epoch = await insertProcess(connection, { id, leaseMs });
    if (signal.aborted) {
      return;
    }
    this.#applied = epoch;
    this.#acknowledged = epoch;
    this.#committed = epoch;
    // What was loaded before the row was there may not be remembered: nobody would have waited for it.
    forgetAll();
    this.#isEntered = true;
    this.#deadline = sentAt + leaseMs - marginMs;
    this.attempted.resolve();
  }

  /** Send a heartbeat, and see whether everything that was committed before it is applied. False: the row is gone. */
  async #beat(connection: Connection, signal: AbortSignal): Promise<boolean> {
    const { id, leaseMs, forgetAll } = this.#options;
    const sentAt = performance.now();
    const acknowledged = this.#applied;
    const committed = await updateProcess(connection, { id, acknowledged, leaseMs });
    if (committed === null || signal.aborted) {
      return committed !== null;
    }
    if (this.#applied < this.#committed) {
      // It was committed a whole round trip ago, and no notification has come.
      forgetAll();
      this.#applied = this.#committed;
    }
    if (committed <= this.#applied) {
      this.#deadline = sentAt + leaseMs - marginMs;
    }
    this.#acknowledged = acknowledged;
    this.#committed = committed;
    return true;
  }

  /** Wait for the next heartbeat's time, or for something to acknowledge. */
  #nap(signal: AbortSignal): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const done = () => resolve();
    const timer = setTimeout(done, beatMs);
    this.#wake = done;
    signal.addEventListener("abort", done);
    if (signal.aborted) {
      done();
    }
    return promise.finally(() => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
    });
  }
}
