import type { Exchange } from "../rpc/call.ts";
import type { Policy } from "../rpc/policy.ts";
import type { Arrival } from "./arrival.ts";
import type { Protocol } from "./exchange.ts";
import type { HttpRequest, HttpResponse } from "./http-message.ts";

/** Answers a request with what was thrown, or breaks off the reply that has begun. */
export type AnswerError = (hit: Hit, thrown: unknown) => void;

/** A request that has found its endpoint. */
export class Hit {
  readonly arrival: Arrival;
  readonly exchange: Exchange;
  /** The decoded value of each variable of the endpoint's path, in their order. */
  readonly bindings: readonly string[];
  /** Without the "?", as sent. */
  readonly query: string;
  readonly #answerError: AnswerError;

  constructor(
    arrival: Arrival,
    exchange: Exchange,
    bindings: readonly string[],
    query: string,
    answerError: AnswerError,
  ) {
    this.arrival = arrival;
    this.exchange = exchange;
    this.bindings = bindings;
    this.query = query;
    this.#answerError = answerError;
  }

  /** Answer with an error: for what goes wrong after serve() has returned. */
  fail(thrown: unknown): void {
    this.#answerError(this, thrown);
  }

  /** Node's own request. Opens the arrival. */
  get request(): HttpRequest {
    return this.arrival.open().request;
  }

  /** Node's own response. Opens the arrival. */
  get response(): HttpResponse {
    return this.arrival.open().response;
  }
}

/** Whatever serves the requests of one method and path. */
export interface Endpoint {
  /** An HTTP method, or "*" for any. */
  readonly method: string;
  /** A path template. */
  readonly path: string;
  /** `pkg.Service/Method`. Undefined for a plain route. */
  readonly rpc: string | undefined;
  readonly policy: Policy;
  /** Whether it says itself what scripts of other origins may do, and answers when browsers ask before. */
  readonly ownCors?: true | undefined;
  /** Whether it says itself how long a request may take to arrive. */
  readonly isSlow?: boolean;
  /** The host that it is served on, in lower case. Then it is served on no other, and nothing else is on it. */
  readonly host?: string | undefined;
  protocolOf(arrival: Arrival): Protocol;
  /** Serve a request. What it throws or rejects with is answered as an error. */
  serve(hit: Hit): void | Promise<void>;
}
