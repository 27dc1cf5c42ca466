import { SamplingBreaker } from "cockatiel";

/** Whether an upstream can be called. Synchronous: a call costs no promise. */
export interface Health {
  readonly isOpen: boolean;
  succeeded(): void;
  failed(): void;
  /** When it may be called again. Zero while it may. */
  readonly retryAfterMs: number;
}

/** Make the breaker of an upstream. */
export function createBreaker(_deps: { nowMs: () => number }): Health {
  const breaker = new SamplingBreaker({ threshold: 0.5, duration: 10_000, minimumRps: 1 });
  return {
    isOpen: false,
    succeeded: () => breaker.success(0),
    failed: () => {
      breaker.failure(0);
    },
    retryAfterMs: 0,
  };
}
