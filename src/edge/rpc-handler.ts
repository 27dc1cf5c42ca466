import type { Registry } from "@bufbuild/protobuf";
import {
  type ContextValues,
  createConnectRouter,
  createContextValues,
  type HandlerContext,
  type Interceptor,
} from "@connectrpc/connect";
import type { UniversalHandler } from "@connectrpc/connect/protocol";
import {
  compressionBrotli,
  compressionGzip,
  universalRequestFromNodeRequest,
  universalResponseToNodeResponse,
} from "@connectrpc/connect-node";
import { type Exchange, exchangeKey } from "../rpc/call.ts";
import { methodName, type Policy } from "../rpc/policy.ts";
import type { Endpoint, Hit } from "./endpoint.ts";
import type { Protocol } from "./exchange.ts";
import { breakOff, type HttpRequest, type HttpResponse, headerOf } from "./http-message.ts";
import { bodyBytesMax } from "./read-body.ts";
import { HttpError } from "./rest/errors.ts";
import type { ServiceEntry } from "./service-entry.ts";

/** The longest deadline that a client may ask for. */
export const timeoutMsMax = 3_600_000;

/** What the handlers of every protocol share. */
export interface HandlerDeps {
  /** Run before a body is read. Throws what the caller is told. */
  readonly admit: (context: HandlerContext) => Promise<void>;
  readonly interceptors: readonly Interceptor[];
  readonly policyOf: (name: string) => Policy;
  /** Finds the types within google.protobuf.Any. */
  readonly registry: Registry;
  /** Aborted once running calls must end. */
  readonly shutdownSignal: AbortSignal;
}

/** The endpoints of gRPC, gRPC-Web and Connect: all three share the path of an RPC. */
export function rpcEndpoints(entries: readonly ServiceEntry[], deps: HandlerDeps): Endpoint[] {
  const router = createConnectRouter({
    acceptCompression: [compressionGzip, compressionBrotli],
    readMaxBytes: bodyBytesMax,
    maxTimeoutMs: timeoutMsMax,
    jsonOptions: { ignoreUnknownFields: false, registry: deps.registry },
    requestGate: deps.admit,
    interceptors: [...deps.interceptors],
    shutdownSignal: deps.shutdownSignal,
  });
  for (const { service, implementation } of entries) {
    router.service(service, implementation);
  }
  return router.handlers.flatMap((handler) => {
    const rpc = methodName(handler.method);
    return handler.allowedMethods.map((method) => ({
      method,
      path: handler.requestPath,
      rpc,
      policy: deps.policyOf(rpc),
      protocolOf,
      serve: (hit: Hit) => serve(handler, hit),
    }));
  });
}

/** Whether the client speaks gRPC or gRPC-Web, and so reads nothing but a gRPC status. */
export function isGrpc(request: HttpRequest): boolean {
  return headerOf(request, "content-type")?.startsWith("application/grpc") ?? false;
}

/** Answer a gRPC client that the method is not there. */
export function sendUnimplemented(request: HttpRequest, response: HttpResponse): void {
  response.statusCode = 200;
  response.setHeader("content-type", headerOf(request, "content-type") ?? "application/grpc");
  response.setHeader("grpc-status", "12");
  response.setHeader("grpc-message", "Cannot find the method");
  response.end();
}

function protocolOf(request: HttpRequest): Protocol {
  const contentType = headerOf(request, "content-type") ?? "";
  if (!contentType.startsWith("application/grpc")) {
    return "connect";
  }
  return contentType.startsWith("application/grpc-web") ? "grpc-web" : "grpc";
}

async function serve(
  handler: UniversalHandler,
  { request, response, exchange }: Hit,
): Promise<void> {
  const contentType = headerOf(request, "content-type") ?? null;
  if (request.method === "POST" && !handler.supportedContentType(contentType)) {
    throw new HttpError(415, "Cannot read body: its Content-Type is not one of this method");
  }
  const reply = await handler(toUniversal(request, response, contextOf(exchange)));
  // Not awaited: the promise of connect-node 2.2.0 stays pending after a whole reply.
  universalResponseToNodeResponse(reply, response).catch(() => breakOff(response));
}

function toUniversal(request: HttpRequest, response: HttpResponse, values: ContextValues) {
  try {
    return universalRequestFromNodeRequest(request, response, undefined, values);
  } catch {
    throw new HttpError(400, "Cannot read request: its host is missing or malformed");
  }
}

function contextOf(exchange: Exchange): ContextValues {
  return createContextValues().set(exchangeKey, exchange);
}
