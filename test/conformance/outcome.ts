import type { Code as ConnectCode } from "@connectrpc/connect";
import type {
  ConformancePayload,
  ConformancePayload_RequestInfo,
} from "../gen/connectrpc/conformance/v1/service_pb.ts";

/** What came of a call, as its client saw it. */
export interface Outcome {
  /** Only known to a raw client. */
  readonly httpStatus?: number;
  readonly headers: Headers;
  readonly trailers: Headers;
  readonly payloads: readonly ConformancePayload[];
  readonly error?: OutcomeError;
}

/** An error as a client saw it. */
export interface OutcomeError {
  readonly code: ConnectCode;
  readonly message: string;
  /** The detail of the error that says what the server saw. */
  readonly info: ConformancePayload_RequestInfo | undefined;
}
