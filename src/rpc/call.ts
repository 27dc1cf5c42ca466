import type { DescMessage, Message } from "@bufbuild/protobuf";
import { type ContextKey, type ContextValues, createContextKey } from "@connectrpc/connect";
import type { Policy } from "./policy.ts";
import type { Principal } from "./principal.ts";

/** One HTTP exchange, as far as the steps of a call may know it. Made by the edge. */
export interface Exchange {
  /** Sent back as `X-Request-Id`. */
  readonly requestId: string;
  /** The caller's address: the socket's, or a trusted proxy's word. */
  readonly clientIp: string;
  /** Whether the caller's own connection is encrypted: the socket, or by a trusted proxy's word. */
  readonly isSecure: boolean;
  /** `grpc`, `grpc-web`, `connect`, `rest` or `http`. */
  readonly protocol: string;
  /** The HTTP method. */
  readonly method: string;
  /** Set a header of the reply, whatever the outcome. Without effect once the reply has begun. */
  setHeader(name: string, value: string): void;
}

/** Headers as far as a call needs them: names in any case, several values joined by ", ". */
export type HeaderReader = Pick<Headers, "get">;

/** One call, whatever protocol carries it. */
export interface Call {
  /** `callora.keys.v1.KeyService/CreateKey`, or `GET /api/metrics` for a plain route. */
  readonly name: string;
  readonly policy: Policy;
  readonly exchange: Exchange;
  /** The request's headers. */
  readonly header: HeaderReader;
  readonly signal: AbortSignal;
  /** The request, once it is read. Never there when it is streamed or plain HTTP. */
  request?: { desc: DescMessage; message: Message };
  /** Whether the reply is a stream, which goes on after the handler was called. */
  streams?: boolean;
  /** Who calls. Set by `authenticate`. */
  principal?: Principal;
  /** Whether the change's record is in the audit log. Set by whoever appended it. */
  audited: boolean;
}

/** Where the steps leave the call for the handler. */
export const callKey: ContextKey<Call | undefined> = createContextKey<Call | undefined>(undefined, {
  description: "call",
});

/** Where the edge leaves the exchange for the steps. */
export const exchangeKey: ContextKey<Exchange | undefined> = createContextKey<Exchange | undefined>(
  undefined,
  { description: "exchange" },
);

/** The call that a handler serves. */
export function callOf({ values }: { values: ContextValues }): Call {
  const call = values.get(callKey);
  if (call === undefined) {
    throw new Error("Cannot serve a call that did not pass the steps");
  }
  return call;
}
