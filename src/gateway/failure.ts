import { Code } from "@connectrpc/connect";
import { errors as undici } from "undici";
import { ErrorInfoSchema } from "../../gen/google/rpc/error_details_pb.ts";
import type { Outcome } from "../catalog/price-rule.ts";
import type { Shortage } from "../credits/purse.ts";
import { RouteError, reasoned, unavailable } from "../rpc/errors.ts";
import { AddressRefusedError } from "./upstream.ts";

/** Why a call has no whole reply: what the consumer is told, and what is noted. */
export interface Failure {
  readonly error: Error;
  /** What the event says. */
  readonly status: number;
  readonly outcome: Outcome;
  /** Whether the upstream is to blame, for its breaker. */
  readonly isUpstreams: boolean;
  /** Whether another try could end otherwise. */
  readonly mayRetry: boolean;
}

/** An upstream's reply makes no sense. */
export class InvalidReplyError extends Error {
  override name = "InvalidReplyError";
}

/** An upstream's reply is longer than the API's developer wants. */
export class ReplyTooLargeError extends Error {
  override name = "ReplyTooLargeError";
}

/** The failure that an error of an upstream's connection means. */
export function failureOf(error: unknown): Failure {
  if (error instanceof AddressRefusedError) {
    return failed(502, "UPSTREAM_NOT_ALLOWED", { isUpstreams: false });
  }
  if (error instanceof ReplyTooLargeError || error instanceof undici.ResponseExceededMaxSizeError) {
    return failed(502, "UPSTREAM_TOO_LARGE", { isUpstreams: false });
  }
  if (error instanceof undici.HeadersTimeoutError || error instanceof undici.BodyTimeoutError) {
    return timedOut();
  }
  if (error instanceof undici.ConnectTimeoutError) {
    return failed(504, "UPSTREAM_TIMEOUT", { isUpstreams: true, mayRetry: true });
  }
  if (isMalformed(error)) {
    return failed(502, "UPSTREAM_INVALID", { isUpstreams: true });
  }
  return failed(502, "UPSTREAM_UNREACHABLE", { isUpstreams: true, mayRetry: true });
}

/** Whether the consumer's own request could not be sent as it was. */
export function isRequestAtFault(error: unknown): boolean {
  return (
    error instanceof undici.InvalidArgumentError ||
    error instanceof undici.NotSupportedError ||
    error instanceof undici.RequestContentLengthMismatchError
  );
}

function isMalformed(error: unknown): boolean {
  return (
    error instanceof InvalidReplyError ||
    error instanceof undici.HeadersOverflowError ||
    error instanceof undici.HTTPParserError ||
    error instanceof undici.ResponseContentLengthMismatchError
  );
}

/** The message does not say where the upstream is: only its developer may know. */
function failed(
  status: 502 | 504,
  reason: string,
  { isUpstreams, mayRetry = false }: { isUpstreams: boolean; mayRetry?: boolean },
): Failure {
  const message = "Cannot get the upstream's reply: nothing was charged";
  const error = new RouteError(status, reasoned(Code.Unavailable, { reason, message }));
  return { error, status, outcome: "failed", isUpstreams, mayRetry };
}

/** The upstream took too long. */
export function timedOut(): Failure {
  const message = "Cannot get the upstream's reply: it takes too long";
  const cause = reasoned(Code.Unavailable, { reason: "UPSTREAM_TIMEOUT", message });
  const error = new RouteError(504, cause);
  return { error, status: 504, outcome: "timed_out", isUpstreams: true, mayRetry: true };
}

/** The server stops. */
export function stopped(): Failure {
  const error = unavailable("SERVER_STOPPING", "Cannot finish the call: the server stops");
  return { error, status: 502, outcome: "failed", isUpstreams: false, mayRetry: false };
}

/** The lease that was to pay is lost. */
export function leaseLost(): Failure {
  return { ...stopped(), error: creditUnknown() };
}

/** Nobody knows whether the key is still accepted. That is not the consumer's fault: it is free. */
export function trustLost(): Failure {
  const message = "Cannot finish the call: nobody knows now whether its key is accepted";
  const error = unavailable("TRUST_LOST", message);
  return { error, status: 503, outcome: "failed", isUpstreams: false, mayRetry: false };
}

/**
 * The consumer left, or does not read on, or the key is no longer accepted, which `error` tells. What was done already is
 * paid: `status` is what is noted then. Null: nothing was done.
 */
export function consumerLeft(status: number | null, error: Error): Failure {
  const outcome = status === null ? "failed" : "consumer_left";
  return { error, status: status ?? 502, outcome, isUpstreams: false, mayRetry: false };
}

/** The path could be read in more than one way. */
export function pathInvalid(): Error {
  const message = "Cannot pass the call on: its path has dot segments or broken characters";
  return reasoned(Code.InvalidArgument, { reason: "PATH_INVALID", message });
}

/** The request cannot be sent on. */
export function bodyInvalid(): Error {
  const message = "Cannot pass the call on: its headers or its body make no sense";
  return reasoned(Code.InvalidArgument, { reason: "BODY_INVALID", message });
}

/** The method is not passed on at all. */
export function notPassedOn(): Error {
  const message = "Cannot pass the call on: it asks for another protocol";
  return reasoned(Code.Unimplemented, { reason: "UPGRADE_NOT_SUPPORTED", message });
}

/** NOT_FOUND: there is no such API, or nobody may call it. */
export function apiNotFound(): Error {
  const message = "Cannot find the API";
  return reasoned(Code.NotFound, { reason: "API_NOT_FOUND", message });
}

/** NOT_FOUND: the API has no such route. */
export function routeNotFound(): Error {
  const message = "Cannot find the route: the API has none with this path";
  return reasoned(Code.NotFound, { reason: "ROUTE_NOT_FOUND", message });
}

/** 405: the API's route has other methods. */
export function methodNotAllowed(): Error {
  const message = "Cannot use this method here";
  const cause = reasoned(Code.Unimplemented, { reason: "METHOD_NOT_ALLOWED", message });
  return new RouteError(405, cause);
}

/** 503: no upstream can be called now. */
export function circuitOpen(retryAfterMs: number): Error {
  const message = "Cannot call the upstream: it failed too often of late";
  return unavailable("UPSTREAM_CIRCUIT_OPEN", message, Math.max(retryAfterMs, 1_000));
}

/** 503: too many calls wait for the upstream. */
export function upstreamBusy(): Error {
  return unavailable("UPSTREAM_BUSY", "Cannot call the upstream: too many calls wait for it");
}

/** 503: the secret that the upstream wants cannot be had. */
export function credentialUnknown(): Error {
  const message = "Cannot call the upstream: its credential cannot be had";
  return unavailable("UPSTREAM_CREDENTIAL", message);
}

/** 503: nobody can say now whether there is credit. */
export function creditUnknown(): Error {
  const message = "Cannot pay for the call: nobody knows now what credit there is";
  return unavailable("CREDIT_UNKNOWN", message);
}

/** 503: the call could not be written down in time. */
export function journalBusy(): Error {
  const message = "Cannot write the call down: try again, nothing was charged";
  return unavailable("JOURNAL_BUSY", message);
}

/** 503: the event may be in the journal. */
export function chargeUnknown(): Error {
  const message =
    "Cannot tell whether the call was charged: look for its request id in the account's events";
  return reasoned(Code.Unavailable, { reason: "CHARGE_UNKNOWN", message });
}

/** 503: too many calls are running. */
export function gatewayBusy(): Error {
  return unavailable("GATEWAY_BUSY", "Cannot take more calls: too many are running");
}

/** 402 with what is missing, in nano-USDC. */
export function shortOfCredit(requiredNanos: bigint, shortage: Shortage): Error {
  const { availableNanos, reservedNanos, limitedBy, budgetId } = shortage;
  const reason = limitedBy === "budget" ? "BUDGET_EXHAUSTED" : "CREDIT_EXHAUSTED";
  const missing = requiredNanos > availableNanos ? requiredNanos - availableNanos : 0n;
  const message =
    `Cannot pay for the call: it may cost ${requiredNanos} nano-USDC, ` +
    `available are ${availableNanos}`;
  const error = reasoned(Code.FailedPrecondition, { reason, message });
  const metadata = {
    required_nanos: String(requiredNanos),
    available_nanos: String(availableNanos),
    missing_nanos: String(missing),
    reserved_nanos: String(reservedNanos),
    ...(budgetId === "" ? {} : { budget_id: budgetId }),
  };
  error.details = [{ desc: ErrorInfoSchema, value: { reason, domain: "callora", metadata } }];
  return new RouteError(402, error);
}
