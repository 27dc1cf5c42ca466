import type { DescMethod, Registry } from "@bufbuild/protobuf";
import {
  Code,
  ConnectError,
  type ContextValues,
  createConnectRouter,
  createContextValues,
  createServiceImplSpec,
  type HandlerContext,
  type Interceptor,
} from "@connectrpc/connect";
import type { UniversalHandler } from "@connectrpc/connect/protocol";
import { parseTimeout, setTrailerStatus } from "@connectrpc/connect/protocol-grpc";
import {
  universalRequestFromNodeRequest,
  universalResponseToNodeResponse,
} from "@connectrpc/connect-node";
import { type Exchange, exchangeKey } from "../rpc/call.ts";
import { completeError, reasoned } from "../rpc/errors.ts";
import { methodName } from "../rpc/policy.ts";
import type { Arrival } from "./arrival.ts";
import type { Endpoint, Hit } from "./endpoint.ts";
import type { Protocol } from "./exchange.ts";
import {
  breakOff,
  discardBody,
  type HttpRequest,
  type HttpResponse,
  headerOf,
  isCutOff,
} from "./http-message.ts";
import { HttpError } from "./rest/errors.ts";
import type { ServiceEntry } from "./service-entry.ts";
import { jsonOptions, rpcOptions, timeoutMsMax } from "./unary/codec.ts";
import type { UnaryDeps } from "./unary/invoke.ts";
import { type ServeUnary, unaryServer } from "./unary/serve.ts";

/** What the handlers of every protocol share. */
export interface HandlerDeps extends UnaryDeps {
  /** Run before a body is read. Throws what the caller is told. */
  readonly admit: (context: HandlerContext) => Promise<void>;
  readonly interceptors: readonly Interceptor[];
  /** Whether unary calls pass connect-node as streams do. Only to compare the two paths. */
  readonly slowUnary: boolean;
  /** Finds the types within google.protobuf.Any. */
  readonly registry: Registry;
  /** Aborted once running calls must end. */
  readonly shutdownSignal: AbortSignal;
}

/** The endpoints of gRPC, gRPC-Web and Connect: all three share the path of an RPC. */
export function rpcEndpoints(entries: readonly ServiceEntry[], deps: HandlerDeps): Endpoint[] {
  const router = createConnectRouter({
    ...rpcOptions,
    acceptCompression: [...rpcOptions.acceptCompression],
    jsonOptions: jsonOptions(deps.registry),
    requestGate: (context) => {
      completeErrors(context);
      return deps.admit(context);
    },
    interceptors: [...deps.interceptors],
    shutdownSignal: deps.shutdownSignal,
  });
  const fast = new Map<DescMethod, ServeUnary>();
  for (const { service, implementation } of entries) {
    router.service(service, implementation);
    for (const spec of Object.values(createServiceImplSpec(service, implementation).methods)) {
      if (spec.kind === "unary" && !deps.slowUnary) {
        fast.set(spec.method, unaryServer(spec, deps));
      }
    }
  }
  return router.handlers.flatMap((handler) => {
    const rpc = methodName(handler.method);
    const serveFast = fast.get(handler.method);
    return handler.allowedMethods.map((method) => ({
      method,
      path: handler.requestPath,
      rpc,
      policy: deps.policyOf(rpc),
      protocolOf,
      serve: (hit: Hit) => serveFast?.(hit) ?? serve(handler, hit),
    }));
  });
}

// What connect-node says of a request that it cannot read passes no interceptor. But before it tells the
// client, it ends the call's context with it.
function completeErrors(context: HandlerContext & { abort?: (reason?: unknown) => void }): void {
  const { abort } = context;
  const requestId = context.values.get(exchangeKey)?.requestId;
  if (abort === undefined || requestId === undefined) {
    throw new Error("Cannot serve a call whose context is not one of connect-node");
  }
  context.abort = (reason) => {
    if (reason instanceof ConnectError) {
      reason.details = completeError(reason, requestId).details;
    }
    abort(reason);
  };
}

/** Whether the client speaks gRPC or gRPC-Web, and so reads nothing but a gRPC status. */
export function isGrpc(arrival: Arrival): boolean {
  return arrival.header("content-type")?.startsWith("application/grpc") ?? false;
}

/** Answer a gRPC client that the method is not there. */
export function sendUnimplemented(arrival: Arrival, requestId: string): void {
  const error = reasoned(Code.Unimplemented, {
    reason: "PATH_NOT_FOUND",
    message: "Cannot find the method",
  });
  const headers = setTrailerStatus(new Headers(), completeError(error, requestId));
  headers.set("content-type", arrival.header("content-type") ?? "application/grpc");
  arrival.send(200, Object.fromEntries(headers), undefined);
}

function protocolOf(arrival: Arrival): Protocol {
  const contentType = arrival.header("content-type") ?? "";
  if (!contentType.startsWith("application/grpc")) {
    return "connect";
  }
  return contentType.startsWith("application/grpc-web") ? "grpc-web" : "grpc";
}

async function serve(handler: UniversalHandler, hit: Hit): Promise<void> {
  const { request, response, exchange } = hit;
  const contentType = headerOf(request, "content-type") ?? null;
  if (request.method === "POST" && !handler.supportedContentType(contentType)) {
    throw wrongType();
  }
  clampTimeout(request);
  const reply = await handler(toUniversal(request, response, contextOf(exchange)));
  // It knows forms of gRPC-Web by name that it does not read, and answers them with nothing but the status.
  if (reply.status === 415) {
    throw wrongType();
  }
  // An RPC may answer before it has read everything, for example when a message is too large.
  discardBody(request, response);
  // Not awaited: the promise of connect-node 2.2.0 stays pending after a whole reply.
  universalResponseToNodeResponse(reply, response).catch(() => breakOff(response));
}

function wrongType(): HttpError {
  return new HttpError(415, "Cannot read body: its Content-Type is not one of this method");
}

/** A gRPC client that asks for more time than there is gets what there is, and no error. */
function clampTimeout(request: HttpRequest): void {
  const { timeoutMs = 0 } = parseTimeout(headerOf(request, "grpc-timeout") ?? null, Infinity);
  if (timeoutMs > timeoutMsMax) {
    request.headers["grpc-timeout"] = `${timeoutMsMax}m`;
  }
}

function toUniversal(request: HttpRequest, response: HttpResponse, values: ContextValues) {
  try {
    const universal = universalRequestFromNodeRequest(request, response, undefined, values);
    // With no parsed body handed in, the body is never a JSON value. Over HTTP/1.1 its own iterator would destroy a request
    // that is not read to its end, and nobody would take what still comes from the connection.
    const body: AsyncIterable<Uint8Array> =
      "stream" in request
        ? (universal.body as AsyncIterable<Uint8Array>)
        : request.iterator({ destroyOnReturn: false });
    return { ...universal, body: untilCutOff(request, body) };
  } catch {
    throw new HttpError(400, "Cannot read request: its host is missing or malformed");
  }
}

// Otherwise a handler would take the messages before a reset for the whole of the stream.
async function* untilCutOff(request: HttpRequest, body: AsyncIterable<Uint8Array>) {
  try {
    yield* body;
  } catch (error) {
    throw isReset(error) ? clientLeft() : error;
  }
  if (isCutOff(request)) {
    throw clientLeft();
  }
}

function isReset(error: unknown): boolean {
  return error instanceof Error && "code" in error && error.code === "ECONNRESET";
}

function clientLeft(): ConnectError {
  return reasoned(Code.Canceled, { reason: "CANCELED", message: "the client left" });
}

function contextOf(exchange: Exchange): ContextValues {
  return createContextValues().set(exchangeKey, exchange);
}
