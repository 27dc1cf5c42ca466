import type { Exchange } from "../rpc/call.ts";
import type { Policy } from "../rpc/policy.ts";
import type { Protocol } from "./exchange.ts";
import type { HttpRequest, HttpResponse } from "./http-message.ts";

/** A request that has found its endpoint. */
export interface Hit {
  readonly request: HttpRequest;
  readonly response: HttpResponse;
  readonly exchange: Exchange;
  /** The decoded value of each variable of the endpoint's path, in their order. */
  readonly bindings: readonly string[];
  /** Without the "?", as sent. */
  readonly query: string;
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
  protocolOf(request: HttpRequest): Protocol;
  /** Serve a request. What it throws or rejects with is answered as an error. */
  serve(hit: Hit): void | Promise<void>;
}
