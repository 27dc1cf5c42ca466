import type { Lease } from "../credits/purse.ts";
import { isUnwritten } from "../metering/append-queue.ts";
import { countedUnits } from "../metering/bill-lines.ts";
import { monthOf, type UsageEntry } from "../metering/entry.ts";
import { type AppendSink, LeaseEndedError } from "../metering/journal.ts";
import type { Admission } from "./admission.ts";
import { type Ending, toEntry, type Usage, usageOf } from "./event.ts";
import { chargeUnknown, journalBusy, leaseLost, shortOfCredit } from "./failure.ts";

/** No try to hand an event to the journal begins later than this after the first. A database restarts in less. */
const appendMsMax = 10_000;
/** The same, of one that may be there, though the database did not say. */
const unknownMsMax = 30_000;
/** The same, of a reply that did not wait and is out: their number is bounded. */
const passedMsMax = 600_000;
const pauseMsMin = 200;
const pauseMsMax = 1_600;

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
  /** What the call is charged for certain, once it is settled. Null: nobody knows. */
  paidNanos: bigint | null = 0n;
  #entry: UsageEntry | null = null;
  /** What its month's memory counts of it. */
  #countedUnits = 0n;
  #appends = 0;
  #settledMs = 0;
  /** A try did not end with an answer of the database. */
  #mayBeWritten = false;
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
    this.#admission.leaveMonth();
    this.#release(0n);
  }

  /** The reply does not wait for the event: count what may be lost. */
  pass(): void {
    this.#isPassed = true;
    this.#admission.deps.asyncCount.begin();
  }

  /** Hand the call's event to the journal. One that costs something is not written when its lease is over. */
  settle(ending: Ending): void {
    const { deps, api, key, price, path, inbound, passing } = this.#admission;
    const { status } = ending;
    const now = deps.now();
    const unitsBefore = this.#unitsBefore(ending);
    const usage = usageOf(price, unitsBefore, ending);
    this.#usage = usage;
    this.#settledMs = deps.nowMs();
    const leaseId = this.#lease?.id ?? null;
    const { requestId } = passing.call.exchange;
    const { method } = inbound;
    const endpoint =
      this.#admission.endpoint || deps.endpoints.of(api.id, { method, path, status });
    const parts = { key, price, endpoint, status, usage, unitsBefore, leaseId, requestId };
    this.#entry = toEntry(parts, now);
    deps.running.settling += 1;
    this.#countInMonth(this.#entry);
    this.#append();
  }

  /**
   * The units of the month when the call ends. A dearer tier than it reserved for is reached when calls that began after it
   * have ended before it: then it takes more, or stays where there is enough for it.
   */
  #unitsBefore(ending: Ending): bigint {
    const { month, unitsBefore: least, unitsBeforeMax: most, price } = this.#admission;
    if (month === null) {
      return 0n;
    }
    this.#admission.leaveMonth();
    const { units } = month;
    if (units <= most) {
      return units > least ? units : least;
    }
    const { chargedNanos } = usageOf(price, units, ending);
    const isCovered = chargedNanos <= this.#takenNanos || this.#takeMore(chargedNanos);
    return isCovered ? units : most;
  }

  #takeMore(nanos: bigint): boolean {
    const more = nanos - this.#takenNanos;
    const lease = this.#admission.purse?.take(more) ?? null;
    if (lease === null || (this.#lease !== null && this.#lease !== lease)) {
      lease?.release(more);
      return false;
    }
    if (this.#lease === lease) {
      // As one call.
      lease.release(0n);
    }
    this.#lease = lease;
    this.#takenNanos = nanos;
    return true;
  }

  /** An event of the next month counts there once it is applied: its tiers are those that it began with. */
  #countInMonth(entry: UsageEntry): void {
    const { month } = this.#admission;
    if (month !== null && month.month === monthOf(entry.timeMicros)) {
      this.#countedUnits = countedUnits(entry);
      month.count(this.#countedUnits);
    }
  }

  #append(): void {
    if (this.#entry !== null) {
      this.#appends += 1;
      const costs = this.chargedNanos > 0n;
      this.#admission.deps.journal.push(this.#entry, this, costs, this.#isPassed);
    }
  }

  onDurable(position: bigint): void {
    this.#admission.month?.written(this.#countedUnits, position);
    this.#countedUnits = 0n;
    if (this.#isPassed) {
      this.#admission.deps.asyncCount.end(true);
    }
    this.#release(this.chargedNanos);
    this.paidNanos = this.chargedNanos;
    this.#settled(null);
  }

  onRefused(error: unknown): void {
    this.#mayBeWritten ||= !(error instanceof LeaseEndedError) && !isUnwritten(error);
    if (error instanceof LeaseEndedError) {
      this.#lease?.lose();
      this.#payAgain();
    } else {
      this.#tryOn(error);
    }
  }

  /** What may be written is tried until the database says so: its consumer must not hear that nothing was charged. */
  #tryOn(error: unknown): void {
    const forMs = this.#mayBeWritten ? unknownMsMax : appendMsMax;
    const endMs = this.#settledMs + (this.#isPassed ? passedMsMax : forMs);
    const pauseMs = Math.min(pauseMsMax, pauseMsMin * 2 ** (this.#appends - 1));
    if (this.#admission.deps.nowMs() + pauseMs < endMs) {
      // Its identity makes it count once, even when it did reach the journal.
      setTimeout(() => this.#append(), pauseMs).unref();
    } else {
      this.#lose(error);
    }
  }

  /** Nobody knows whether the event is there: what was set aside for it stays so until the lease is closed. */
  #lose(error: unknown): void {
    this.#withdraw();
    tell(this.#admission, error);
    if (this.#isPassed) {
      this.#admission.deps.asyncCount.end(false);
    }
    this.#release(this.#takenNanos);
    this.#settled(this.#mayBeWritten ? chargeUnknown() : journalBusy());
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
    this.#withdraw();
    this.#admission.deps.watch.onUnpaid();
    if (this.#isPassed) {
      this.#admission.deps.asyncCount.end(false);
    }
    this.#release(0n);
    this.#settled(this.#mayBeWritten ? chargeUnknown() : error);
  }

  #settled(error: Error | null): void {
    this.#admission.deps.running.settling -= 1;
    if (error !== null && this.#mayBeWritten) {
      this.paidNanos = null;
    }
    this.#sink.onSettled(error);
  }

  #withdraw(): void {
    this.#admission.month?.withdraw(this.#countedUnits);
    this.#countedUnits = 0n;
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
