import { CircuitState, SamplingBreaker } from "cockatiel";

/** Whether an upstream can be called. Synchronous: a call costs no promise. */
export interface Health {
  /** Whether no call may go there now. */
  readonly isOpen: boolean;
  /** A call is about to go there. While the circuit is not closed, it is the only one for a while: a probe. */
  begun(): void;
  succeeded(): void;
  failed(): void;
  /** When it may be called again. Zero while it may. */
  readonly retryAfterMs: number;
}

/** Which calls are looked at. */
const windowMs = 10_000;

/** How long nobody calls an upstream that failed, and how long a probe may take before there is another. */
const openMs = 5_000;

/**
 * Make the breaker of an upstream: open when more than half of at least ten calls of the last ten seconds failed.
 *
 * After a while it lets one call through. If that succeeds, it closes; if not, or if nothing is heard of it, the while
 * begins anew. cockatiel judges; its policy is not used, which costs promises for each call.
 */
export function createBreaker({ nowMs }: { nowMs: () => number }): Health {
  let judge = createJudge();
  let isClosed = true;
  let isProbing = false;
  /** When the next probe may go. */
  let probeAtMs = 0;
  let lastAtMs = nowMs();

  /** Its windows go on only with what they are told: after silence they still hold what is long over. */
  function judgeNow(): SamplingBreaker {
    const atMs = nowMs();
    if (atMs - lastAtMs > windowMs) {
      judge = createJudge();
    }
    lastAtMs = atMs;
    return judge;
  }

  function open() {
    isClosed = false;
    isProbing = false;
    probeAtMs = nowMs() + openMs;
  }

  return {
    get isOpen() {
      return !isClosed && nowMs() < probeAtMs;
    },
    begun() {
      if (!isClosed) {
        isProbing = true;
        probeAtMs = nowMs() + openMs;
      }
    },
    succeeded() {
      if (isClosed) {
        judgeNow().success(CircuitState.Closed);
      } else if (isProbing) {
        // What ends well without a probe began before the circuit opened.
        judge = createJudge();
        isClosed = true;
        isProbing = false;
      }
    },
    failed() {
      if (isClosed) {
        if (judgeNow().failure(CircuitState.Closed)) {
          open();
        }
      } else if (isProbing) {
        open();
      }
    },
    get retryAfterMs() {
      return isClosed ? 0 : Math.max(0, probeAtMs - nowMs());
    },
  };
}

function createJudge(): SamplingBreaker {
  return new SamplingBreaker({ threshold: 0.5, duration: windowMs, minimumRps: 1 });
}
