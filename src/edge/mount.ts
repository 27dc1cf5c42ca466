import { createLinkedAbortController } from "@connectrpc/connect/protocol";
import type { Call, Exchange, HeaderReader } from "../rpc/call.ts";
import { RouteError, reasoned } from "../rpc/errors.ts";
import { checkPolicy, type Policy } from "../rpc/policy.ts";
import type { Principal } from "../rpc/principal.ts";
import type { Steps } from "../rpc/steps.ts";
import type { Arrival } from "./arrival.ts";
import type { Endpoint, Hit } from "./endpoint.ts";
import { type HttpRequest, type HttpResponse, toHeaders } from "./http-message.ts";
import { HttpError } from "./rest/errors.ts";
import { parseTemplate } from "./rest/template.ts";

/** A plain HTTP route that passes the same steps as an RPC. */
export interface Mount {
  readonly method: "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS" | "ANY";
  /** A path template, for example `/v1/call/{api}/{path=**}`. */
  readonly pattern: string;
  readonly policy: Policy;
  readonly handler: MountHandler;
}

/**
 * Serves the requests of a mount. What it throws before the reply has begun is answered as an error;
 * later it breaks the reply off.
 */
export type MountHandler = (
  request: HttpRequest,
  response: HttpResponse,
  context: {
    readonly call: Call;
    readonly arrival: Arrival;
    /** The decoded values of the pattern's variables, by name. */
    readonly params: Readonly<Record<string, string>>;
  },
) => void | Promise<void>;

/**
 * A plain HTTP route whose requests are handed on unopened, for those that have no time to lose. It says itself what
 * scripts of other origins may do, is asked when browsers ask before, and says how long its requests may take.
 */
export interface RawMount {
  readonly method: Mount["method"];
  readonly pattern: string;
  readonly policy: Policy;
  /** The only host that it is served on, and on which nothing else is. Undefined: every host. */
  readonly host?: string | undefined;
  /** What it throws, or rejects with, is answered as an error. */
  readonly raw: (arrival: Arrival, passing: RawPassing) => void | Promise<void>;
  /** Told once the grace time of a stopping server is over: what still runs is to end. */
  readonly onShutdown: () => void;
}

/** What is known of a request that is handed on unopened, and the steps that are left to do. */
export class RawPassing {
  readonly call: Call;
  /** The decoded values of the pattern's variables, in their order. */
  readonly bindings: readonly string[];
  /** Without the "?", as sent. */
  readonly query: string;
  readonly #hit: Hit;
  readonly #steps: Steps;
  /** Whether an error is one of admit(), which has explained it. */
  #isExplained = false;

  constructor(hit: Hit, call: Call, steps: Steps) {
    this.call = call;
    this.bindings = hit.bindings;
    this.query = hit.query;
    this.#hit = hit;
    this.#steps = steps;
  }

  /** Authenticate and limit. Not a promise when memory tells. What it throws or rejects with is for fail(). */
  admit(): void | Promise<void> {
    this.#isExplained = true;
    const admitted = this.#steps.admit(this.call);
    if (admitted instanceof Promise) {
      return admitted.then(() => {
        this.#isExplained = false;
      });
    }
    this.#isExplained = false;
  }

  /** Answer with an error, or break off the reply that has begun. */
  fail(thrown: unknown): void {
    const hit = this.#hit;
    if (this.#isExplained) {
      hit.fail(thrown);
      return;
    }
    const refuse = () => {
      throw thrown instanceof HttpError ? toRouteError(thrown) : thrown;
    };
    void Promise.resolve(this.#steps.around(this.call, refuse)).catch((error) => hit.fail(error));
  }
}

/** The endpoints of routes that get their requests unopened. Throws if one has no complete policy. */
export function rawEndpoints(
  mounts: readonly RawMount[],
  { steps, shutdownSignal }: { steps: Steps; shutdownSignal: AbortSignal },
): Endpoint[] {
  return mounts.map(({ method, pattern, policy, host, raw, onShutdown }) => {
    const name = `${method} ${pattern}`;
    shutdownSignal.addEventListener("abort", onShutdown, { once: true });
    return {
      method: method === "ANY" ? "*" : method,
      path: pattern,
      rpc: undefined,
      policy: checkPolicy(name, policy),
      ownCors: true,
      isSlow: true,
      host,
      protocolOf: () => "http",
      serve(hit: Hit) {
        const call = new RawCall(name, policy, { hit, signal: shutdownSignal });
        const passing = new RawPassing(hit, call, steps);
        try {
          raw(hit.arrival, passing)?.catch((error) => passing.fail(error));
        } catch (error) {
          passing.fail(error);
        }
      },
    };
  });
}

// A class for all, and no Headers: both are read where they are.
class RawCall implements Call, HeaderReader {
  readonly name: string;
  readonly policy: Policy;
  readonly exchange: Exchange;
  readonly signal: AbortSignal;
  principal?: Principal;
  audited = false;
  readonly #headers: Arrival["headers"];

  constructor(name: string, policy: Policy, { hit, signal }: { hit: Hit; signal: AbortSignal }) {
    this.name = name;
    this.policy = policy;
    this.exchange = hit.exchange;
    this.signal = signal;
    this.#headers = hit.arrival.headers;
  }

  get header(): HeaderReader {
    return this;
  }

  get(name: string): string | null {
    const value = this.#headers[name.toLowerCase()];
    if (value === undefined) {
      return null;
    }
    return typeof value === "string" ? value : value.join(", ");
  }
}

/** The endpoints of plain routes. Throws if one has no complete policy. */
export function mountEndpoints(
  mounts: readonly Mount[],
  { steps, shutdownSignal }: { steps: Steps; shutdownSignal: AbortSignal },
): Endpoint[] {
  return mounts.map(({ method, pattern, policy, handler }) => {
    const name = `${method} ${pattern}`;
    const variables = parseTemplate(pattern).variables.map(({ fieldPath }) => fieldPath.join("."));
    return {
      method: method === "ANY" ? "*" : method,
      path: pattern,
      rpc: undefined,
      policy: checkPolicy(name, policy),
      protocolOf: () => "http",
      async serve({ arrival, request, response, exchange, bindings }: Hit) {
        const params: Record<string, string> = Object.create(null);
        for (const [index, variable] of variables.entries()) {
          params[variable] = bindings[index] ?? "";
        }
        const left = createLinkedAbortController(shutdownSignal);
        const onClose = () => left.abort(clientLeft);
        response.once("close", onClose);
        const { signal } = left;
        const header = toHeaders(request);
        const call: Call = { name, policy, exchange, header, signal, audited: false };
        try {
          await steps.admit(call);
          await steps.around(call, async () => {
            try {
              await handler(request, response, { call, params, arrival });
            } catch (error) {
              throw error instanceof HttpError ? toRouteError(error) : error;
            }
          });
        } finally {
          if (response.writableEnded) {
            left.abort(finished);
          }
        }
      },
    };
  });
}

/** What the steps know as an error that has a status of its own. */
function toRouteError({ status, code, reason, message }: HttpError): RouteError {
  return new RouteError(status, reasoned(code, { reason, message }));
}

const clientLeft = new DOMException("the client left", "AbortError");
const finished = new DOMException("the call has ended", "AbortError");
