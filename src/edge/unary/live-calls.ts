/** What can be told to end. */
export interface Abortable {
  abort(reason: unknown): void;
}

/** The running calls that can be told to end. */
export interface LiveCalls {
  /** Have a call aborted once the server stops: at once, if it has stopped already. */
  add(call: Abortable): void;
  /** Forget a call that has ended. */
  delete(call: Abortable): void;
  readonly size: number;
}

/** Keep the running calls, and abort them all when the signal is. One listener serves them all. */
export function createLiveCalls(shutdownSignal: AbortSignal): LiveCalls {
  const calls = new Set<Abortable>();
  shutdownSignal.addEventListener(
    "abort",
    () => {
      for (const call of calls) {
        call.abort(shutdownSignal.reason);
      }
    },
    { once: true },
  );
  return {
    add(call) {
      if (shutdownSignal.aborted) {
        call.abort(shutdownSignal.reason);
      } else {
        calls.add(call);
      }
    },
    delete(call) {
      calls.delete(call);
    },
    get size() {
      return calls.size;
    },
  };
}
