import { createLinkedAbortController } from "@connectrpc/connect/protocol";
import type { Call } from "../rpc/call.ts";
import { RouteError, reasoned } from "../rpc/errors.ts";
import { checkPolicy, type Policy } from "../rpc/policy.ts";
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
