import { Code } from "@connectrpc/connect";

/**
 * One thing wrong with a request: a field, by its dotted path (empty: the request as a whole), and
 * why.
 */
export interface Violation {
  readonly field: string;
  readonly description: string;
}

/** Most violations that one error reports, so that a request cannot buy a far larger reply. */
export const violationsMax = 20;

/** A request whose path, query or body does not fit its message. Answered with 400. */
export class BindError extends Error {
  override readonly name = "BindError";
  readonly violations: readonly Violation[];

  constructor(violations: readonly Violation[]) {
    super(`Cannot read request: ${violations.map(textOf).join("; ")}`);
    this.violations = violations;
  }
}

function textOf({ field, description }: Violation): string {
  return field === "" ? description : `"${field}" ${description}`;
}

/** A refusal that HTTP itself has a status for, kept as it is, such as 405 or 413. */
export class HttpError extends Error {
  override readonly name = "HttpError";
  readonly status: HttpErrorStatus;
  readonly code: Code;
  /** The `google.rpc.ErrorInfo` reason. */
  readonly reason: string;
  /** Lower-case names. */
  readonly headers: Readonly<Record<string, string>>;

  constructor(
    status: HttpErrorStatus,
    message: string,
    headers: Readonly<Record<string, string>> = {},
  ) {
    super(message);
    this.status = status;
    this.code = codeByStatus[status];
    this.reason = reasonByStatus[status];
    this.headers = headers;
  }
}

const codeByStatus = {
  400: Code.InvalidArgument,
  404: Code.NotFound,
  405: Code.Unimplemented,
  406: Code.InvalidArgument,
  408: Code.DeadlineExceeded,
  413: Code.ResourceExhausted,
  414: Code.InvalidArgument,
  415: Code.InvalidArgument,
  421: Code.InvalidArgument,
  426: Code.InvalidArgument,
  431: Code.InvalidArgument,
  501: Code.Unimplemented,
} as const;

const reasonByStatus = {
  400: "REQUEST_INVALID",
  404: "PATH_NOT_FOUND",
  405: "METHOD_NOT_ALLOWED",
  406: "NOT_ACCEPTABLE",
  408: "REQUEST_TOO_SLOW",
  413: "BODY_TOO_LARGE",
  414: "PATH_TOO_LONG",
  415: "MEDIA_TYPE_UNSUPPORTED",
  421: "MISDIRECTED",
  426: "UPGRADE_REQUIRED",
  431: "HEADERS_TOO_LARGE",
  501: "UPGRADE_NOT_SUPPORTED",
} satisfies Record<HttpErrorStatus, string>;

/** The statuses that an HttpError may have. */
export type HttpErrorStatus = keyof typeof codeByStatus;
