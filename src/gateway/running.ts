/** A call that is under way, as a link of the list of all. */
export interface RunningCall {
  previous: RunningCall | null;
  next: RunningCall | null;
  /** Look whether it may go on. */
  sweep(nowMs: number, isKeyForgotten: boolean): void;
  /** The event loop has turned. */
  onTurn(): void;
  /** End it: the server stops. */
  stop(): void;
}

/** The calls that a process serves now. */
export interface Running {
  readonly size: number;
  /** Whether too many calls run, or wait for what they need to begin. */
  readonly isFull: boolean;
  /** Calls that wait for what they need to begin. */
  waiting: number;
  /** Calls whose events are on their way into the journal, also where nobody waits for them. */
  settling: number;
  add(call: RunningCall): void;
  remove(call: RunningCall): void;
  /** Tell a call once the event loop has turned. */
  rest(call: RunningCall): void;
  /** Look after all of them from now on. */
  start(): void;
  /** Look at all of them soon: what is known of keys has changed. */
  recheck(): void;
  /** End all of them. */
  stopAll(): void;
  close(): void;
}

const sweepMs = 250;

/**
 * Make the list. One look at all calls now and then takes the place of a timer, a signal and a watch for each; a list
 * whose links are the calls costs two writes to come and go.
 */
export function createRunning({
  callsMax,
  nowMs,
}: {
  callsMax: number;
  nowMs: () => number;
}): Running {
  let first: RunningCall | null = null;
  let size = 0;
  let timer: NodeJS.Timeout | undefined;
  let isRecheckSet = false;
  let resting: RunningCall[] = [];

  function turn(): void {
    const rested = resting;
    resting = [];
    for (const call of rested) {
      call.onTurn();
    }
  }

  function each(look: (call: RunningCall) => void): void {
    for (let call = first; call !== null; ) {
      const { next }: RunningCall = call;
      look(call);
      call = next;
    }
  }

  function sweep(isKeyForgotten: boolean): void {
    const now = nowMs();
    each((call) => call.sweep(now, isKeyForgotten));
  }

  return {
    get size() {
      return size;
    },
    get isFull() {
      return size + this.waiting >= callsMax;
    },
    waiting: 0,
    settling: 0,
    add(call) {
      call.previous = null;
      call.next = first;
      if (first !== null) {
        first.previous = call;
      }
      first = call;
      size += 1;
    },
    remove(call) {
      const { previous, next } = call;
      if (previous !== null) {
        previous.next = next;
      } else if (first === call) {
        first = next;
      } else {
        return;
      }
      if (next !== null) {
        next.previous = previous;
      }
      call.previous = null;
      call.next = null;
      size -= 1;
    },
    rest(call) {
      resting.push(call);
      if (resting.length === 1) {
        setImmediate(turn);
      }
    },
    start() {
      timer ??= setInterval(sweep, sweepMs, false).unref();
    },
    recheck() {
      if (!isRecheckSet && size > 0) {
        isRecheckSet = true;
        setImmediate(() => {
          isRecheckSet = false;
          sweep(true);
        });
      }
    },
    stopAll() {
      each((call) => call.stop());
    },
    close() {
      clearInterval(timer);
      timer = undefined;
    },
  };
}
