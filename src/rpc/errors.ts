import type { DescMessage, MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import {
  BackendTerminatedError,
  BackendTerminatedUnexpectedlyError,
  CheckIntegrityConstraintViolationError,
  ConnectionError,
  NotFoundError,
  SlonikError,
  StatementCancelledError,
  StatementTimeoutError,
  UniqueIntegrityConstraintViolationError,
} from "slonik";
import {
  BadRequestSchema,
  ErrorInfoSchema,
  RequestInfoSchema,
  RetryInfoSchema,
} from "../../gen/google/rpc/error_details_pb.ts";
import { BusyError } from "../lib/semaphore.ts";
import { defaultReason } from "./default-reason.ts";

/** The domain of every ErrorInfo that we send. */
const domain = "callora";

type Detail = { desc: DescMessage; value: MessageInitShape<DescMessage> };

/** A part of the request that is wrong, by its path in the request. */
export interface Violation {
  field: string;
  description: string;
}

/** An error of a plain HTTP route whose status is not the one of its code. */
export class RouteError extends ConnectError {
  // ConnectError looks at the shape of a value, and every ConnectError has that shape.
  static override [Symbol.hasInstance](value: unknown): boolean {
    return value instanceof ConnectError && "httpStatus" in value;
  }

  readonly httpStatus: number;

  constructor(httpStatus: number, error: ConnectError) {
    super(error.rawMessage, error.code, error.metadata, undefined, error.cause);
    this.details = error.details;
    this.httpStatus = httpStatus;
  }
}

/** UNAUTHENTICATED: no credential, or one that is not accepted. Never says which. */
export function unauthenticated(): ConnectError {
  return reasoned(Code.Unauthenticated, {
    reason: "CREDENTIALS_REQUIRED",
    message: "Cannot tell who calls: sign in, or send an accepted credential",
  });
}

/** PERMISSION_DENIED with a reason. */
export function permissionDenied(reason: string, message: string): ConnectError {
  return reasoned(Code.PermissionDenied, { reason, message });
}

/** NOT_FOUND: there is no such thing, or it belongs to somebody else. */
export function notFound(what: string): ConnectError {
  return reasoned(Code.NotFound, { reason: "NOT_FOUND", message: `Cannot find ${what}` });
}

/** ALREADY_EXISTS with a reason. */
export function alreadyExists(reason: string, message: string): ConnectError {
  return reasoned(Code.AlreadyExists, { reason, message });
}

/** FAILED_PRECONDITION with a reason. */
export function failedPrecondition(reason: string, message: string): ConnectError {
  return reasoned(Code.FailedPrecondition, { reason, message });
}

// Over gRPC what tells of an error travels in headers, and clients read 8 KiB of them.
const violationsMax = 20;
const violationsBytesMax = 2500;
const fieldLengthMax = 100;
const descriptionLengthMax = 200;
const messageLengthMax = 500;

/** INVALID_ARGUMENT that names the fields, as many as headers can carry. */
export function invalidArgument(all: Violation[], reason = "REQUEST_INVALID"): ConnectError {
  const fieldViolations = fitting(all);
  const texts = fieldViolations.map(({ field, description }) => `${field}: ${description}`);
  return reasoned(Code.InvalidArgument, {
    reason,
    message: texts.join("; ").slice(0, messageLengthMax),
    details: [{ desc: BadRequestSchema, value: { fieldViolations } }],
  });
}

function fitting(violations: readonly Violation[]): Violation[] {
  let left = violationsBytesMax;
  return violations
    .slice(0, violationsMax)
    .map(({ field, description }) => ({
      field: field.slice(0, fieldLengthMax),
      description: description.slice(0, descriptionLengthMax),
    }))
    .filter(({ field, description }) => {
      left -= Buffer.byteLength(field) + Buffer.byteLength(description);
      return left >= 0;
    });
}

/** UNAVAILABLE: worth trying again after the given time. */
export function unavailable(reason: string, message: string, retryAfterMs = 1000): ConnectError {
  return reasoned(Code.Unavailable, { reason, message, retryAfterMs });
}

/** RESOURCE_EXHAUSTED: too many calls; the next is welcome after the given time. */
export function rateLimited(retryAfterMs: number): ConnectError {
  return reasoned(Code.ResourceExhausted, {
    reason: "RATE_LIMITED",
    message: `Cannot take more calls: try again in ${Math.ceil(retryAfterMs / 1000)} s`,
    retryAfterMs,
  });
}

/** An error with the ErrorInfo that clients act on. */
export function reasoned(
  code: Code,
  {
    reason,
    message,
    retryAfterMs,
    details = [],
    cause,
  }: {
    reason: string;
    message: string;
    retryAfterMs?: number;
    details?: Detail[];
    cause?: unknown;
  },
): ConnectError {
  const all: Detail[] = [{ desc: ErrorInfoSchema, value: { reason, domain } }, ...details];
  if (retryAfterMs !== undefined) {
    all.push({ desc: RetryInfoSchema, value: { retryDelay: durationFromMs(retryAfterMs) } });
  }
  return new ConnectError(message, code, undefined, all, cause);
}

/**
 * The error with all that a caller acts on: a reason (by default that of its code), when to try
 * again if that may help, and the id of the request. The error itself stays as it is: it may be one
 * that many calls share.
 */
export function completeError(error: ConnectError, requestId: string): ConnectError {
  const extra: Detail[] = [];
  if (!hasDetail(error, ErrorInfoSchema)) {
    const reason = defaultReason(error.code, error.rawMessage);
    extra.push({ desc: ErrorInfoSchema, value: { reason, domain } });
  }
  const mayRetry = error.code === Code.Unavailable && !(error instanceof RouteError);
  if (mayRetry && !hasDetail(error, RetryInfoSchema)) {
    extra.push({ desc: RetryInfoSchema, value: { retryDelay: durationFromMs(retryMs) } });
  }
  if (!hasDetail(error, RequestInfoSchema)) {
    extra.push({ desc: RequestInfoSchema, value: { requestId } });
  }
  if (extra.length === 0) {
    return error;
  }
  const { rawMessage, code, metadata, cause } = error;
  const copy = new ConnectError(rawMessage, code, metadata, undefined, cause);
  copy.details = [...error.details, ...extra];
  return error instanceof RouteError ? new RouteError(error.httpStatus, copy) : copy;
}

const retryMs = 1000;

function hasDetail({ details }: ConnectError, { typeName }: DescMessage): boolean {
  return details.some((one) => ("desc" in one ? one.desc.typeName : one.type) === typeName);
}

/** The error that a caller may see. What is not ours to show becomes INTERNAL, without its message. */
export function toConnectError(error: unknown): ConnectError {
  if (error instanceof ConnectError) {
    return error;
  }
  if (error instanceof SlonikError) {
    return fromDatabase(error);
  }
  if (error instanceof BusyError) {
    return busy(error);
  }
  if (error instanceof Error && error.name === "TrustLostError") {
    const { message, cause } = error;
    return reasoned(Code.Unavailable, {
      reason: "TRUST_LOST",
      message,
      retryAfterMs: 1000,
      cause,
    });
  }
  if (error instanceof Error && error.name === "KeyReusedError") {
    const description = "was used for another request";
    return invalidArgument([{ field: "request_id", description }], "IDEMPOTENCY_KEY_REUSED");
  }
  if (error instanceof Error && error.name === "AbortError") {
    return reasoned(Code.Canceled, { reason: "CANCELED", message: "canceled", cause: error });
  }
  if (error instanceof Error && error.name === "KeyBusyError") {
    return reasoned(Code.Aborted, {
      reason: "IDEMPOTENCY_KEY_IN_FLIGHT",
      message: error.message,
      retryAfterMs: 1000,
      cause: error,
    });
  }
  return error instanceof Error && isTransient(error) ? busy(error) : internal(error);
}

function fromDatabase(error: SlonikError): ConnectError {
  if (error instanceof NotFoundError) {
    return reasoned(Code.NotFound, {
      reason: "NOT_FOUND",
      message: "Cannot find it",
      cause: error,
    });
  }
  if (error instanceof UniqueIntegrityConstraintViolationError) {
    const message = "Cannot create it: it exists already";
    return reasoned(Code.AlreadyExists, { reason: "ALREADY_EXISTS", message, cause: error });
  }
  if (error instanceof CheckIntegrityConstraintViolationError) {
    return internal(error);
  }
  return isTransient(error) ? busy(error) : internal(error);
}

function busy(cause: Error): ConnectError {
  return reasoned(Code.Unavailable, {
    reason: "DATABASE_BUSY",
    message: "Cannot reach the database in time: try again",
    retryAfterMs: 1000,
    cause,
  });
}

/** SQL states after which the same transaction may succeed: conflicts, locks, shutdown, no connection. */
const transientStates = /^(08|40|53|57P|57014|55P03|ECONN|EPIPE|ETIMEDOUT)/;

function isTransient(error: Error): boolean {
  if (
    error instanceof ConnectionError ||
    error instanceof StatementTimeoutError ||
    error instanceof StatementCancelledError ||
    error instanceof BackendTerminatedError ||
    error instanceof BackendTerminatedUnexpectedlyError
  ) {
    return true;
  }
  return transientStates.test(sqlState(error)) || transientStates.test(sqlState(error.cause));
}

/** The SQL state, or the system's code, of an error of the driver. Empty when it has none. */
function sqlState(error: unknown): string {
  return error instanceof Error && "code" in error ? String(error.code) : "";
}

function internal(cause: unknown): ConnectError {
  return reasoned(Code.Internal, { reason: "INTERNAL", message: "internal error", cause });
}
