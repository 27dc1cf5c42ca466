import type { IncomingHttpHeaders } from "node:http";
import type { Dispatcher } from "undici";
import type { Outcome } from "../catalog/price-rule.ts";
import { unauthenticated } from "../rpc/errors.ts";
import type { Admission } from "./admission.ts";
import { echoReply } from "./echo.ts";
import { failWith } from "./error-headers.ts";
import {
  bodyInvalid,
  circuitOpen,
  consumerLeft,
  credentialUnknown,
  type Failure,
  failureOf,
  InvalidReplyError,
  isRequestAtFault,
  ReplyTooLargeError,
  stopped,
  timedOut,
  upstreamBusy,
} from "./failure.ts";
import { Parting } from "./parting.ts";
import { Payment, tell } from "./payment.ts";
import { Reply } from "./reply.ts";
import { requestHeaders } from "./request.ts";
import type { RunningCall } from "./running.ts";
import { Tries } from "./tries.ts";
import { Upload, UploadCutError } from "./upload.ts";
import type { Target } from "./upstream.ts";
import { Watchdog } from "./watchdog.ts";

/** Replies before the reply, as of 103, that are dropped. */
const informationalMax = 20;

/** What is noted of a call whose consumer did not wait for the status. */
const consumerLeftStatus = 499;

/** Where a call is on its way. It only goes on. */
const stages = { open: 0, settling: 1, over: 2 } as const;

/**
 * One call on its way: at once what the upstream's pool tells of the reply, and a link of the list of running calls.
 * A short call makes no promise, no signal and no function.
 */
export class GatewayCall implements Dispatcher.DispatchHandler, RunningCall {
  previous: RunningCall | null = null;
  next: RunningCall | null = null;
  readonly #admission: Admission;
  #stage: number = stages.open;
  readonly #payment: Payment;
  readonly #reply: Reply;
  readonly #tries: Tries;
  readonly #upload: Upload;
  #headers: string[] | null = null;
  #controller: Dispatcher.DispatchController | null = null;
  /** The target of a try that has no connection yet. */
  #waitsFor: Target | null = null;
  /** The reply of this try is not the consumer's. */
  #isDropped = false;
  #informational = 0;
  #failure: Error | null = null;
  /** Not null: the consumer is gone, and the reply is read on. */
  #parting: Parting | null = null;
  /** The reply did not wait for the event. */
  #isPassed = false;
  /** Only of a call that takes long. */
  #watchdog: Watchdog | null = null;

  constructor(admission: Admission) {
    this.#admission = admission;
    this.#payment = new Payment(admission, this);
    this.#reply = new Reply(admission, this);
    this.#tries = new Tries(admission);
    this.#upload = new Upload(admission.inbound);
  }

  /** Begin to pass the call on. */
  begin(): void {
    const { inbound, deps } = this.#admission;
    if (inbound.isGone) {
      this.#payment.giveBack();
      return;
    }
    inbound.closing = this;
    deps.running.add(this);
    this.#upload.prepare(this);
  }

  /** The body is there, as far as it has to be. */
  onBody(): void {
    const { api, key } = this.#admission;
    const isEchoed = this.#tries.set === null;
    const value = isEchoed || api.credential === null ? "" : api.credential.value(key.mode);
    if (value instanceof Promise) {
      value.then(
        (found) => this.#send(found),
        () => this.#send(null),
      );
    } else {
      this.#send(value);
    }
  }

  /** Send the call with a credential. Empty: without one. Null: there is none. */
  #send(credential: string | null): void {
    if (this.#stage !== stages.open) {
      return;
    }
    if (credential === null) {
      this.#giveUp(credentialUnknown());
      return;
    }
    this.#headers = requestHeaders(this.#admission, credential);
    if (this.#tries.set === null) {
      this.#echo();
    } else {
      this.#dispatch(null);
    }
  }

  /** Send the call to the next upstream. `last` is how the try before failed. */
  #dispatch(last: Failure | null): void {
    const { inbound, passing, api, path } = this.#admission;
    const target = this.#tries.next();
    if (target === null) {
      this.#giveUpOrFail(last, circuitOpen(this.#tries.set?.retryAfterMs ?? 0));
      return;
    }
    if (target.waiting >= target.waitingMax) {
      this.#giveUpOrFail(last, upstreamBusy());
      return;
    }
    target.waiting += 1;
    this.#waitsFor = target;
    this.#controller = null;
    this.#isDropped = false;
    this.#informational = 0;
    this.#reply.tried();
    target.pool.dispatch(
      {
        path: target.basePath + path + (passing.query === "" ? "" : `?${passing.query}`),
        method: inbound.method,
        headers: this.#headers,
        body: this.#upload.begin(),
        headersTimeout: api.timeoutMs,
        bodyTimeout: api.timeoutMs,
      },
      this,
    );
  }

  /** End a call that cannot be sent: it leaves an event only when it was tried before. */
  #giveUpOrFail(last: Failure | null, error: Error): void {
    if (last === null) {
      this.#giveUp(error);
    } else {
      this.#fail(last);
    }
  }

  /** The present try waits for its connection no more. */
  #waitNoMore(): void {
    if (this.#waitsFor !== null) {
      this.#waitsFor.waiting -= 1;
      this.#waitsFor = null;
    }
  }

  /** A test call that goes nowhere. */
  #echo(): void {
    const { inbound, passing, path } = this.#admission;
    const { method } = inbound;
    const headers = this.#headers ?? [];
    const call = { method, path, query: passing.query, headers, body: this.#upload.collected };
    const { status, headers: replied, body } = echoReply(call);
    this.#reply.tried();
    this.#upload.isSent = true;
    this.#reply.startWhole(status, replied, body);
    this.#endReply();
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#waitNoMore();
    if (this.#stage !== stages.open) {
      // Thrown: to abort would cost the connection, which has sent nothing.
      throw callEnded();
    }
    this.#controller = controller;
  }

  onRequestSent(): void {
    this.#upload.isSent = true;
  }

  onResponseStart(
    controller: Dispatcher.DispatchController,
    status: number,
    headers: IncomingHttpHeaders,
  ): void {
    if (this.#stage !== stages.open) {
      return;
    }
    if (status < 200) {
      this.#informational += 1;
      if (this.#informational > informationalMax) {
        controller.abort(new InvalidReplyError("Cannot read a reply: it does not begin"));
      }
      return;
    }
    if (status > 599) {
      controller.abort(new InvalidReplyError(`Cannot pass on status ${status}`));
      return;
    }
    if (status === 502 || status === 503 || status === 504) {
      this.#tries.target?.health.failed();
      if (this.#hasOther(headers)) {
        this.#isDropped = true;
        controller.abort(new Error("Cannot use this reply: another upstream is asked"));
        return;
      }
    } else {
      this.#tries.target?.health.succeeded();
    }
    // Pieces of the first part, all of which they would keep in memory to the end.
    controller.rawHeaders = null;
    const { responseBytesMax } = this.#admission.api;
    const length = this.#reply.start(status, headers, this.#tries.target);
    if (responseBytesMax > 0 && (length ?? 0) > responseBytesMax) {
      controller.abort(new ReplyTooLargeError("Cannot pass on a reply: it is too large"));
    } else if (length === null) {
      this.#reply.begin().flushHeaders();
    }
  }

  onResponseData(controller: Dispatcher.DispatchController, chunk: Buffer): void {
    // Of none at all the parser tells whenever it goes on.
    if (this.#stage !== stages.open || this.#isDropped || chunk.length === 0) {
      return;
    }
    if (this.#parting !== null) {
      this.#reply.overhear(chunk);
      this.#readOn(this.#parting);
      return;
    }
    const { responseBytesMax } = this.#admission.api;
    const isSent = this.#reply.data(chunk);
    if (responseBytesMax > 0 && this.#reply.received > responseBytesMax) {
      controller.abort(new ReplyTooLargeError("Cannot pass on a reply: it is too large"));
    } else if (isSent) {
      // However fast the upstream sends and the consumer takes: the others have their turn before the next part.
      controller.pause();
      if (!this.#reply.isPaused) {
        this.#admission.deps.running.rest(this);
      }
    }
  }

  onTurn(): void {
    if (!this.#reply.isPaused) {
      this.#controller?.resume();
    }
  }

  /** The consumer takes more of a reply. */
  onDrain(): void {
    this.#admission.deps.running.rest(this);
  }

  onResponseEnd(): void {
    if (this.#stage !== stages.open) {
      return;
    }
    if (this.#parting !== null) {
      this.#fail(this.#parting.failure);
      return;
    }
    this.#reply.times.answeredMs = this.#admission.deps.nowMs();
    this.#endReply();
  }

  #endReply(): void {
    const { deps, api } = this.#admission;
    // A process that stood still may have lost the lease before anybody has told it so.
    this.#isPassed = api.isAsync && !this.#payment.isLost && deps.asyncCount.mayPass();
    if (this.#isPassed) {
      this.#payment.pass();
    }
    this.#settle({ status: this.#reply.status, outcome: "whole" });
    if (this.#isPassed) {
      this.#finish();
    }
  }

  onResponseError(_controller: Dispatcher.DispatchController | null, error: Error): void {
    this.#waitNoMore();
    if (this.#stage !== stages.open) {
      return;
    }
    const { inbound } = this.#admission;
    if (this.#parting !== null) {
      this.#fail(this.#parting.failure);
      return;
    }
    if (this.#isDropped) {
      this.#dispatch(null);
      return;
    }
    if (isRequestAtFault(error)) {
      this.#giveUp(bodyInvalid());
      return;
    }
    if (inbound.isGone || inbound.isCutOff || error instanceof UploadCutError) {
      this.onClosed();
      return;
    }
    const failure = this.#blamed(failureOf(error));
    if (failure.isUpstreams) {
      this.#tries.target?.health.failed();
    }
    if (failure.mayRetry && this.#mayRepeat()) {
      this.#dispatch(failure);
      return;
    }
    tell(this.#admission, error);
    this.#fail(failure);
  }

  #mayRepeat(): boolean {
    const wasBegun = this.#controller !== null;
    const { isStreamed } = this.#upload;
    return this.#reply.status === 0 && this.#tries.mayRepeat({ wasBegun, isStreamed });
  }

  /** An upstream that says it cannot is asked no second time; another may be able to. */
  #hasOther(headers: IncomingHttpHeaders): boolean {
    return headers["retry-after"] === undefined && this.#mayRepeat() && this.#tries.hasOther();
  }

  /** The reply has ended, or the consumer has left. */
  onClosed(): void {
    if (this.#stage === stages.open) {
      this.#cut(consumerLeft(this.#workedStatus, stopped().error));
    }
  }

  /**
   * What is noted when the consumer does not go on. Null: the upstream has done nothing. Who has not said all has had its
   * work, too, once the reply has begun.
   */
  get #workedStatus(): number | null {
    const { status } = this.#reply;
    return status === 0 && !this.#upload.isSent ? null : status || consumerLeftStatus;
  }

  sweep(nowMs: number, isKeyForgotten: boolean): void {
    if (this.#stage === stages.open && this.#parting !== null) {
      this.#readOn(this.#parting);
    } else if (this.#stage === stages.open) {
      this.#watchdog ??= new Watchdog(this.#admission, this.#payment, this);
      this.#watchdog.look(nowMs, isKeyForgotten);
    }
    // The pool's own times begin with the connection.
    const { timeoutMs } = this.#admission.api;
    if (this.#waitsFor !== null && nowMs - this.#reply.times.triedMs > timeoutMs) {
      this.onFailed({ ...stopped(), status: 504, error: timedOut().error });
    }
  }

  stop(): void {
    this.onFailed(stopped());
  }

  /** The call takes too long. */
  onOverdue(): void {
    this.onFailed(this.#blamed(timedOut()));
  }

  /** Whose consumer reads no more, or does not end his request, is paid: else all but the end of a reply would be free. */
  #blamed(failure: Failure): Failure {
    const isHeldUp = this.#reply.isPaused || (this.#reply.status !== 0 && !this.#upload.isSent);
    return failure.outcome === "timed_out" && isHeldUp
      ? consumerLeft(this.#workedStatus, failure.error)
      : failure;
  }

  /** The call must not go on. */
  onFailed(failure: Failure): void {
    if (this.#stage === stages.open) {
      this.#cut(failure);
    }
  }

  /** The key is no longer accepted. */
  onKeyRefused(): void {
    if (this.#stage === stages.open) {
      this.#cut(consumerLeft(this.#workedStatus, unauthenticated()));
    }
  }

  /** End the call before its reply has ended. */
  #cut(failure: Failure): void {
    if (this.#tries.count === 0) {
      this.#giveUp(this.#admission.inbound.isGone ? null : failure.error);
      return;
    }
    const isPaid = failure.outcome === "consumer_left";
    if (isPaid && this.#parting === null && this.#reply.isUnsaid && this.#controller !== null) {
      this.#part(failure, this.#controller);
      return;
    }
    if (isPaid && this.#parting !== null && !this.#parting.isOver(this.#admission.deps.nowMs())) {
      return;
    }
    this.#fail(this.#parting?.failure ?? failure);
    this.#abort();
  }

  /** Read on without the consumer, for what the call costs. */
  #part(failure: Failure, controller: Dispatcher.DispatchController): void {
    const { inbound, deps } = this.#admission;
    this.#parting = new Parting(failure, this.#reply, deps.nowMs());
    if (!inbound.isGone) {
      inbound.breakOff();
    }
    controller.resume();
  }

  #readOn(parting: Parting): void {
    if (parting.isOver(this.#admission.deps.nowMs())) {
      this.#fail(parting.failure);
      this.#abort();
    }
  }

  #abort(): void {
    const controller = this.#controller;
    this.#controller = null;
    controller?.abort(callEnded());
  }

  /** End a call of which nothing was sent: it leaves no event. */
  #giveUp(error: Error | null): void {
    this.#failure = error;
    this.#stage = stages.over;
    this.#payment.giveBack();
    this.#leave();
    if (error !== null) {
      failWith(this.#admission, error, { chargedNanos: 0n, times: this.#reply.times });
    }
  }

  #fail(failure: Failure): void {
    this.#failure = failure.error;
    this.#settle(failure);
  }

  #settle(ending: { status: number; outcome: Outcome }): void {
    this.#stage = stages.settling;
    this.#reply.times.pushedMs = this.#admission.deps.nowMs();
    this.#payment.settle({ ...ending, units: this.#reply.units });
  }

  /** The event is durable, or (with an error) nothing pays for the reply: complete it, or tell that there is none. */
  onSettled(error: Error | null): void {
    this.#failure ??= error;
    if (!this.#isPassed) {
      this.#finish();
    }
  }

  #leave(): void {
    const { deps, inbound } = this.#admission;
    inbound.closing = undefined;
    deps.running.remove(this);
  }

  #finish(): void {
    const { inbound } = this.#admission;
    this.#stage = stages.over;
    this.#leave();
    if (inbound.isGone) {
      return;
    }
    try {
      if (this.#failure === null) {
        this.#reply.complete(this.#payment.chargedNanos);
      } else if (this.#reply.isBegun) {
        inbound.breakOff();
      } else {
        const { paidNanos: chargedNanos } = this.#payment;
        failWith(this.#admission, this.#failure, { chargedNanos, times: this.#reply.times });
      }
    } catch (error) {
      tell(this.#admission, error);
      inbound.breakOff();
    }
  }
}

function callEnded(): Error {
  return new Error("Cannot go on: the call has ended");
}
