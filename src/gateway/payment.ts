import type { Lease } from "../credits/purse.ts";
import type { UsageEntry } from "../metering/entry.ts";
import { type AppendSink, LeaseEndedError } from "../metering/journal.ts";
import type { Admission } from "./admission.ts";
import { type Ending, toEntry, type Usage, usageOf } from "./event.ts";
import { journalBusy, leaseLost, shortOfCredit } from "./failure.ts";

/** Times that an event is handed to the journal. */
const appendTries = 3;

/** Whom a payment tells of its end. */
export interface PaymentSink {
  /** The event is durable; or (with an error) it is not, or nothing pays for it. */
  onSettled(error: Error | null): void;
}

/** What was set aside for a call, the event that it becomes, and what is given back. */
export class Payment implements AppendSink {
  readonly #admission: Admission;
  readonly #sink: PaymentSink;
  /** Null: nothing was set aside, or it was given back. */
  #lease: Lease | null;
  #takenNanos: bigint;
  #usage: Usage | null = null;
  #entry: UsageEntry | null = null;
  #appends = 0;
  #isStrict = false;
  /** The reply does not wait. */
  #isPassed = false;
  /** A second lease pays: the first was over. */
  #isRepaid = false;

  constructor(admission: Admission, sink: PaymentSink) {
    this.#admission = admission;
    this.#sink = sink;
    this.#lease = admission.lease;
    this.#takenNanos = admission.reserveNanos;
  }

  get chargedNanos(): bigint {
    return this.#usage?.chargedNanos ?? 0n;
  }

  get isLost(): boolean {
    return this.#lease?.isLost === true;
  }

  /** Keep the lease: the call is a long one. */
  renew(): void {
    this.#lease?.renew();
  }

  /** Give all back: the call leaves no event. */
  giveBack(): void {
    this.#release(0n);
  }

  /** The reply does not wait for the event: count what may be lost. */
  pass(): void {
    this.#isPassed = true;
    this.#admission.deps.asyncCount.begin();
  }

  /** Hand the call's event to the journal. A strict one is not written when its lease is over. */
  settle(ending: Ending, isStrict: boolean): void {
    const { deps, key, price, endpoint, unitsBefore, passing } = this.#admission;
    const { status } = ending;
    const usage = usageOf(price, unitsBefore, ending);
    this.#usage = usage;
    this.#isStrict = isStrict && usage.chargedNanos > 0n;
    const leaseId = this.#lease?.id ?? null;
    const { requestId } = passing.call.exchange;
    const parts = { key, price, endpoint, status, usage, unitsBefore, leaseId, requestId };
    this.#entry = toEntry(parts, deps.now());
    if (price.rule?.span === "month" && usage.outcome !== "failed") {
      const { accountId, mode } = key;
      deps.monthUnits.used({ accountId, apiId: price.pinned.apiId, mode }, usage.units);
    }
    this.#append();
  }

  #append(): void {
    if (this.#entry !== null) {
      this.#appends += 1;
      this.#admission.deps.journal.push(this.#entry, this, this.#isStrict, this.#isPassed);
    }
  }

  onDurable(): void {
    if (this.#isPassed) {
      this.#admission.deps.asyncCount.end(true);
    }
    this.#release(this.chargedNanos);
    this.#sink.onSettled(null);
  }

  onRefused(error: unknown): void {
    if (error instanceof LeaseEndedError) {
      this.#lease?.lose();
      this.#payAgain();
    } else if (this.#appends < appendTries) {
      // Its identity makes it count once, even when it did reach the journal.
      setTimeout(() => this.#append(), 100 * 4 ** this.#appends);
    } else {
      this.#lose(error);
    }
  }

  /** Nobody knows whether the event is there: what was set aside for it stays so until the lease is closed. */
  #lose(error: unknown): void {
    tell(this.#admission, error);
    if (this.#isPassed) {
      this.#admission.deps.asyncCount.end(false);
    }
    this.#release(this.#takenNanos);
    this.#sink.onSettled(journalBusy());
  }

  /** The lease was over before the event was there: another pays, or nobody gets the reply. */
  #payAgain(): void {
    const { purse } = this.#admission;
    const nanos = this.chargedNanos;
    if (purse === null || this.#isRepaid) {
      this.#refuse(leaseLost().error);
      return;
    }
    this.#isRepaid = true;
    const lease = purse.take(nanos);
    if (lease !== null) {
      this.#payWith(lease);
      return;
    }
    purse.ask(nanos).then(
      (answer) =>
        "availableNanos" in answer
          ? this.#refuse(shortOfCredit(nanos, answer))
          : this.#payWith(answer),
      () => this.#refuse(leaseLost().error),
    );
  }

  #payWith(lease: Lease): void {
    this.#release(0n);
    this.#lease = lease;
    this.#takenNanos = this.chargedNanos;
    if (this.#entry !== null) {
      this.#entry = { ...this.#entry, lease: lease.id };
    }
    this.#append();
  }

  #refuse(error: Error): void {
    this.#admission.deps.watch.onUnpaid();
    this.#release(0n);
    this.#sink.onSettled(error);
  }

  /** Give back what was set aside and is not charged. */
  #release(chargedNanos: bigint): void {
    const lease = this.#lease;
    this.#lease = null;
    lease?.release(this.#takenNanos - chargedNanos);
  }
}

/** Say why a call failed, for those who run the server. */
export function tell({ deps, api, passing }: Admission, error: unknown): void {
  const { requestId } = passing.call.exchange;
  deps.watch.onFailure(error, { apiId: api.id, requestId });
}
