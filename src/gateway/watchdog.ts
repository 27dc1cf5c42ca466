import type { Admission } from "./admission.ts";
import { type Failure, leaseLost, trustLost } from "./failure.ts";
import type { Payment } from "./payment.ts";

/** Times in a row that nobody knows whether a key is accepted. */
const unknownMax = 2;

/** Calls younger than this are not asked about their key again. */
const freshMs = 250;
/** Calls older than this want their lease kept. */
const longMs = 2_000;

/** Whom a watchdog tells that its call must not go on. */
export interface WatchedCall {
  /** It takes too long. */
  onOverdue(): void;
  onFailed(failure: Failure): void;
  /** The key is no longer accepted. */
  onKeyRefused(): void;
}

/** Looks whether a call may go on: its time, its lease and its key. */
export class Watchdog {
  readonly #admission: Admission;
  readonly #payment: Payment;
  readonly #call: WatchedCall;
  #isAsking = false;
  #unknown = 0;

  constructor(admission: Admission, payment: Payment, call: WatchedCall) {
    this.#admission = admission;
    this.#payment = payment;
    this.#call = call;
  }

  /** Look now. */
  look(nowMs: number, isKeyForgotten: boolean): void {
    const { startedMs, api, deps } = this.#admission;
    const ageMs = nowMs - startedMs;
    if (ageMs > api.durationMsMax) {
      this.#call.onOverdue();
    } else if (this.#payment.isLost) {
      deps.watch.onUnpaid();
      this.#call.onFailed(leaseLost());
    } else {
      if (ageMs > longMs) {
        this.#payment.renew();
      }
      if (isKeyForgotten || ageMs > freshMs) {
        this.#askForKey();
      }
    }
  }

  #askForKey(): void {
    if (this.#isAsking) {
      return;
    }
    const { deps, key } = this.#admission;
    const answer = deps.verifier.isAccepted(key);
    if (!(answer instanceof Promise)) {
      this.#heed(answer);
      return;
    }
    this.#isAsking = true;
    answer.then(
      (isAccepted) => this.#heed(isAccepted),
      () => {
        this.#unknown += 1;
        this.#isAsking = false;
        if (this.#unknown >= unknownMax) {
          this.#call.onFailed(trustLost());
        }
      },
    );
  }

  #heed(isAccepted: boolean): void {
    this.#isAsking = false;
    this.#unknown = 0;
    if (!isAccepted) {
      this.#call.onKeyRefused();
    }
  }
}
