import {
  create,
  type DescMessage,
  fromBinary,
  type JsonObject,
  type Message,
  type Registry,
  toBinary,
  toJson,
} from "@bufbuild/protobuf";
import { base64Encode } from "@bufbuild/protobuf/wire";
import { hasCustomJsonRepresentation } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import { BadRequestSchema, RetryInfoSchema } from "../../../gen/google/rpc/error_details_pb.ts";
import { completeError, RouteError, reasoned } from "../../rpc/errors.ts";
import { BindError, HttpError } from "./errors.ts";

/** A whole HTTP reply. Header names are in lower case. */
export interface ErrorReply {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

/** How to render an error. */
export interface ErrorFormat {
  /** A `google.rpc.Status` as JSON, or an RFC 9457 problem. */
  readonly format: "json" | "problem";
  /** Finds the types of error details that came over the wire. What it lacks is shown as base64. */
  readonly registry?: Registry | undefined;
  /** The problem's `instance`: the request's path or id. */
  readonly instance?: string | undefined;
  /** Told in a google.rpc.RequestInfo. */
  readonly requestId?: string | undefined;
}

/**
 * Render what a handler or the binding threw. ConnectError, BindError and HttpError are told to the
 * client; of anything else it learns no more than "internal error".
 */
export function toErrorReply(error: unknown, options: ErrorFormat): ErrorReply {
  const { requestId } = options;
  const found = toConnectError(error);
  const shown = requestId === undefined ? found : completeError(found, requestId);
  const isHttp = error instanceof HttpError;
  const own = shown instanceof RouteError ? shown.httpStatus : httpStatusOf(shown.code);
  const status = isHttp ? error.status : own;
  const retryAfter = retryAfterSeconds(shown);
  const json = statusJson(shown, options.registry);
  const isProblem = options.format === "problem";
  return {
    status,
    headers: {
      ...(isHttp ? error.headers : {}),
      ...(retryAfter === undefined ? {} : { "retry-after": String(retryAfter) }),
      "content-type": isProblem ? "application/problem+json" : "application/json",
    },
    body: JSON.stringify(isProblem ? problemJson(status, shown, json, options.instance) : json),
  };
}

/** The ConnectError that tells a client what was thrown. See toErrorReply. */
export function toConnectError(error: unknown): ConnectError {
  if (error instanceof ConnectError) {
    return error;
  }
  if (error instanceof BindError) {
    const fieldViolations = error.violations.map(({ field, description }) => ({
      field,
      description,
    }));
    return reasoned(Code.InvalidArgument, {
      reason: "REQUEST_INVALID",
      message: error.message,
      details: [{ desc: BadRequestSchema, value: { fieldViolations } }],
      cause: error,
    });
  }
  if (error instanceof HttpError) {
    const { code, reason, message } = error;
    return reasoned(code, { reason, message, cause: error });
  }
  return new ConnectError("internal error", Code.Internal, undefined, undefined, error);
}

const statusByCode: Readonly<Record<Code, { readonly status: number; readonly name: string }>> = {
  [Code.Canceled]: { status: 499, name: "CANCELLED" },
  [Code.Unknown]: { status: 500, name: "UNKNOWN" },
  [Code.InvalidArgument]: { status: 400, name: "INVALID_ARGUMENT" },
  [Code.DeadlineExceeded]: { status: 504, name: "DEADLINE_EXCEEDED" },
  [Code.NotFound]: { status: 404, name: "NOT_FOUND" },
  [Code.AlreadyExists]: { status: 409, name: "ALREADY_EXISTS" },
  [Code.PermissionDenied]: { status: 403, name: "PERMISSION_DENIED" },
  [Code.ResourceExhausted]: { status: 429, name: "RESOURCE_EXHAUSTED" },
  [Code.FailedPrecondition]: { status: 400, name: "FAILED_PRECONDITION" },
  [Code.Aborted]: { status: 409, name: "ABORTED" },
  [Code.OutOfRange]: { status: 400, name: "OUT_OF_RANGE" },
  [Code.Unimplemented]: { status: 501, name: "UNIMPLEMENTED" },
  [Code.Internal]: { status: 500, name: "INTERNAL" },
  [Code.Unavailable]: { status: 503, name: "UNAVAILABLE" },
  [Code.DataLoss]: { status: 500, name: "DATA_LOSS" },
  [Code.Unauthenticated]: { status: 401, name: "UNAUTHENTICATED" },
};

/** The HTTP status of an RPC code, 500 for a number that is none. */
export function httpStatusOf(code: Code): number {
  return statusByCode[code]?.status ?? 500;
}

/** The error as ProtoJSON of google.rpc.Status. */
export function statusJson(error: ConnectError, registry: Registry | undefined): JsonObject {
  const details = error.details.map((detail) => detailJson(detail, registry));
  return { code: error.code, message: error.rawMessage, details };
}

/** How long a client should wait, by the error's google.rpc.RetryInfo, rounded up. */
export function retryAfterSeconds(error: ConnectError): number | undefined {
  const delay = error.findDetails(RetryInfoSchema)[0]?.retryDelay;
  if (delay === undefined) {
    return undefined;
  }
  return Math.max(0, Number(delay.seconds) + (delay.nanos > 0 ? 1 : 0));
}

function detailJson(
  detail: ConnectError["details"][number],
  registry: Registry | undefined,
): JsonObject {
  const typeName = "desc" in detail ? detail.desc.typeName : detail.type;
  const type = `type.googleapis.com/${typeName}`;
  try {
    if ("desc" in detail) {
      return messageJson(type, detail.desc, create(detail.desc, detail.value), registry);
    }
    const desc = registry?.getMessage(typeName);
    if (desc !== undefined) {
      return messageJson(type, desc, fromBinary(desc, detail.value), registry);
    }
  } catch {
    // A detail that cannot be shown as JSON must not hide the error itself.
  }
  return { "@type": type, value: base64Encode(bytesOf(detail)) };
}

function bytesOf(detail: ConnectError["details"][number]): Uint8Array {
  if (!("desc" in detail)) {
    return detail.value;
  }
  try {
    return toBinary(detail.desc, create(detail.desc, detail.value));
  } catch {
    return new Uint8Array();
  }
}

function messageJson(
  type: string,
  desc: DescMessage,
  message: Message,
  registry: Registry | undefined,
): JsonObject {
  const json = toJson(desc, message, { registry });
  return hasCustomJsonRepresentation(desc)
    ? { "@type": type, value: json }
    : { "@type": type, ...(json as JsonObject) };
}

function problemJson(
  status: number,
  error: ConnectError,
  { details }: JsonObject,
  instance: string | undefined,
): JsonObject {
  return {
    type: "about:blank",
    title: titleByStatus[status] ?? "Error",
    status,
    detail: error.rawMessage,
    ...(instance === undefined ? {} : { instance }),
    code: statusByCode[error.code]?.name ?? "UNKNOWN",
    details: details ?? [],
  };
}

/** What HTTP calls the statuses of errors. */
export const titleByStatus: Readonly<Record<number, string>> = {
  400: "Bad Request",
  401: "Unauthorized",
  402: "Payment Required",
  403: "Forbidden",
  404: "Not Found",
  405: "Method Not Allowed",
  406: "Not Acceptable",
  408: "Request Timeout",
  409: "Conflict",
  413: "Content Too Large",
  414: "URI Too Long",
  415: "Unsupported Media Type",
  426: "Upgrade Required",
  429: "Too Many Requests",
  431: "Request Header Fields Too Large",
  499: "Client Closed Request",
  500: "Internal Server Error",
  501: "Not Implemented",
  502: "Bad Gateway",
  503: "Service Unavailable",
  504: "Gateway Timeout",
};
