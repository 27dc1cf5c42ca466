import {
  create,
  type DescMessage,
  type DescMethodUnary,
  type Message,
  type MessageInitShape,
} from "@bufbuild/protobuf";
import {
  Code,
  ConnectError,
  type ContextKey,
  type ContextValues,
  type MethodImplSpec,
} from "@connectrpc/connect";
import { mergeNonProtocolHeaders } from "@connectrpc/connect/protocol";
import {
  type Call,
  callKey,
  type Exchange,
  exchangeKey,
  type HeaderReader,
} from "../../rpc/call.ts";
import { completeError } from "../../rpc/errors.ts";
import { methodName, type Policy } from "../../rpc/policy.ts";
import type { Steps } from "../../rpc/steps.ts";
import type { Arrival } from "../arrival.ts";
import { copyHeaders } from "../http-message.ts";
import { UnaryContext, type UnaryRequest } from "./context.ts";
import type { LiveCalls } from "./live-calls.ts";

/** What the unary calls of every protocol share. */
export interface UnaryDeps {
  readonly steps: Steps;
  readonly live: LiveCalls;
  readonly policyOf: (name: string) => Policy;
}

/** A unary method with what serves it. Made once, when the server starts. */
export interface UnaryMethod {
  readonly method: DescMethodUnary;
  readonly name: string;
  readonly policy: Policy;
  readonly impl: Extract<MethodImplSpec, { kind: "unary" }>["impl"];
  readonly steps: Steps;
  readonly live: LiveCalls;
}

/** Prepare to serve a unary method. */
export function unaryMethod(
  { method, impl }: Extract<MethodImplSpec, { kind: "unary" }>,
  { steps, live, policyOf }: UnaryDeps,
): UnaryMethod {
  const name = methodName(method);
  return { method, name, policy: policyOf(name), impl, steps, live };
}

/** One call of a unary method: admit() it, then invoke() it, and close() it whatever came of it. */
export class UnaryCall implements Call {
  readonly policy: Policy;
  readonly name: string;
  readonly exchange: Exchange;
  readonly context: UnaryContext;
  readonly #unary: UnaryMethod;
  readonly #hit: UnaryRequest;
  #header: HeaderReader | undefined;
  request?: { desc: DescMessage; message: Message };
  principal?: Call["principal"] & object;
  audited = false;

  /** Without `timeoutMs` there is no deadline. */
  constructor(unary: UnaryMethod, hit: UnaryRequest, timeoutMs: number | undefined) {
    this.#unary = unary;
    this.#hit = hit;
    this.policy = unary.policy;
    this.name = unary.name;
    this.exchange = hit.exchange;
    this.context = new UnaryContext(unary, hit, timeoutMs, new CallValues(this));
  }

  get header(): HeaderReader {
    this.#header ??= new RequestHeaders(this.#hit.arrival.headers);
    return this.#header;
  }

  get signal(): AbortSignal {
    return this.context.signal;
  }

  /** Pass the steps that come before the body. Throws what the caller is told. */
  admit(): void | Promise<void> {
    return this.#unary.steps.admit(this);
  }

  /** Have the handler answer, within the steps. Throws what the caller is told. */
  invoke(message: Message): Message | Promise<Message> {
    const { method, impl, steps } = this.#unary;
    this.request = { desc: method.input, message };
    return steps.around(this, () => {
      const answer = impl(message, this.context);
      return answer instanceof Promise
        ? answer.then((init) => create(method.output, init))
        : create(method.output, answer as MessageInitShape<typeof method.output>);
    });
  }

  /** The call has ended. */
  close(): void {
    this.context.close();
  }
}

/** Copy the headers that the handler has set to the reply, and those that an error brings along. */
export function sendHeaders({ context }: UnaryCall, arrival: Arrival, error?: ConnectError): void {
  if (error !== undefined && !error.isWireError) {
    const merged = new Headers(context.sentHeader);
    mergeNonProtocolHeaders(merged, error.metadata);
    copyHeaders(merged, arrival);
  } else if (context.sentHeader !== undefined) {
    copyHeaders(context.sentHeader, arrival);
  }
}

/** Copy the trailers that the handler has set to the reply's headers, as `trailer-…`. */
export function sendTrailersAsHeaders({ context }: UnaryCall, arrival: Arrival): void {
  if (context.sentTrailer !== undefined) {
    copyHeaders(context.sentTrailer, arrival, "trailer-");
  }
}

/** What a caller over RPC is told of what was thrown. */
export function shownError({ exchange }: UnaryCall, thrown: unknown): ConnectError {
  const error =
    thrown instanceof ConnectError
      ? thrown
      : new ConnectError("internal error", Code.Internal, undefined, undefined, thrown);
  return completeError(error, exchange.requestId);
}

/** Headers of a request, read where they are. */
class RequestHeaders implements HeaderReader {
  readonly #headers: Arrival["headers"];

  constructor(headers: Arrival["headers"]) {
    this.#headers = headers;
  }

  get(name: string): string | null {
    const value = this.#headers[name.toLowerCase()];
    if (value === undefined) {
      return null;
    }
    return typeof value === "string" ? value : value.join(", ");
  }
}

/** The context values of a call: itself and its exchange, and what somebody sets. */
class CallValues implements ContextValues {
  readonly #call: Call;
  #others: Map<symbol, unknown> | undefined;

  constructor(call: Call) {
    this.#call = call;
  }

  get<T>(key: ContextKey<T>): T {
    if (this.#others?.has(key.id)) {
      return this.#others.get(key.id) as T;
    }
    if (key.id === callKey.id) {
      return this.#call as T;
    }
    return key.id === exchangeKey.id ? (this.#call.exchange as T) : key.defaultValue;
  }

  set<T>(key: ContextKey<T>, value: T): this {
    this.#others ??= new Map();
    this.#others.set(key.id, value);
    return this;
  }

  delete(key: ContextKey<unknown>): this {
    return this.set(key, key.defaultValue);
  }
}
