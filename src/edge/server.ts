import type { AddressInfo } from "node:net";
import { createRegistry } from "@bufbuild/protobuf";
import { Code, ConnectError, type HandlerContext } from "@connectrpc/connect";
import { Access, RateClass } from "../../gen/callora/policy/v1/policy_pb.ts";
import { file_google_rpc_error_details } from "../../gen/google/rpc/error_details_pb.ts";
import { Health } from "../../gen/grpc/health/v1/health_pb.ts";
import { ServerReflection } from "../../gen/grpc/reflection/v1/reflection_pb.ts";
import { ServerReflection as ServerReflectionAlpha } from "../../gen/grpc/reflection/v1alpha/reflection_pb.ts";
import type { Exchange } from "../rpc/call.ts";
import { methodName, openPolicy } from "../rpc/policy.ts";
import { admitRpc, type Steps, stepsInterceptor } from "../rpc/steps.ts";
import { type Arrival, Http1Arrival } from "./arrival.ts";
import { createCors } from "./cors.ts";
import { createDispatcher } from "./dispatch.ts";
import type { DocsRoute } from "./docs.ts";
import type { Endpoint, Hit } from "./endpoint.ts";
import { createExchanges } from "./exchange.ts";
import { type HealthSource, healthService } from "./health.ts";
import { sendReply } from "./http-message.ts";
import { type Mount, mountEndpoints, type RawMount, rawEndpoints } from "./mount.ts";
import { createOnePort, type PortLimits } from "./one-port.ts";
import { reflectionService } from "./reflection.ts";
import { splitTarget } from "./rest/path.ts";
import { createRouteTable } from "./rest/route-table.ts";
import { parseTemplate } from "./rest/template.ts";
import { restEndpoints } from "./rest-handler.ts";
import { rpcEndpoints } from "./rpc-handler.ts";
import { entry, policiesOf, type ServiceEntry } from "./service-entry.ts";
import { streamErrors } from "./stream-errors.ts";
import { createObserver, type Finish } from "./telemetry.ts";
import type { TlsIdentity } from "./tls.ts";
import { createLiveCalls } from "./unary/live-calls.ts";
import { createSocketBridge, type SocketRoute, withoutUpgrade } from "./websocket.ts";
import type { SocketLimits } from "./websocket-session.ts";

/** What the edge serves, and whom it tells. */
export interface EdgeOptions {
  services: readonly ServiceEntry[];
  steps: Steps;
  mounts?: readonly (Mount | RawMount)[];
  docs?: readonly DocsRoute[];
  /** Without it there is no grpc.health.v1. */
  health?: HealthSource;
  /** Addresses and CIDR blocks whose X-Forwarded-For is believed. */
  trustedProxies?: readonly string[];
  corsOrigins?: readonly string[];
  /** With it the port speaks TLS alone. */
  tls?: TlsIdentity | undefined;
  /** RPCs that are served over WebSockets as well. */
  sockets?: readonly SocketRoute[];
  socketLimits?: Partial<SocketLimits>;
  /**
   * RPCs of which both sides stream, by name, that may have REST paths although a client of plain HTTP
   * cannot count on an answer before it has sent everything: theirs get all requests at once.
   */
  halfDuplex?: readonly string[];
  /** Told of every request once its reply has ended. */
  onFinish: (finish: Finish) => void;
  /** Told of errors that no step sees: in a stream that has begun, or in the edge itself. */
  onError: (error: unknown, exchange: Exchange) => void;
  limits?: Partial<PortLimits>;
  /** Serve unary RPCs by connect-node too, as streams are. Only to compare the two paths. */
  slowUnary?: boolean;
}

/** One line of the list of everything that is served. */
export interface RouteInfo {
  /** An HTTP method, or "*" for any. */
  readonly method: string;
  readonly path: string;
  /** `pkg.Service/Method`, or empty for a plain route. */
  readonly rpc: string;
  readonly access: string;
  readonly rateClass: string;
}

/** Every protocol on one port. */
export interface Edge {
  /** Start to accept. Rejects with the system's error, for example one of code EADDRINUSE. */
  listen(address: { host: string; port: number }): Promise<AddressInfo>;
  /** Accept no more, let running calls finish, and after the grace time end them. */
  close(options: { graceMs: number }): Promise<void>;
  routes(): RouteInfo[];
}

/** Between telling running calls to end and ending their connections. */
const lastWordsMs = 250;

/**
 * Put services, plain routes and descriptions behind one port. Throws if a method or route has no
 * policy, naming it, and if two clash, naming both.
 */
export function createEdge(options: EdgeOptions): Edge {
  const { steps, onError, onFinish, mounts = [], docs = [] } = options;
  const closing = new AbortController();
  const shutdown = new AbortController();
  const services = withBuiltIns(options, closing.signal);
  const policyOf = policiesOf(services);
  const registry = createRegistry(
    file_google_rpc_error_details,
    ...services.map(({ service }) => service.file),
  );
  const deps = {
    admit: (context: HandlerContext) => admitRpc(steps, policyOf, context),
    interceptors: [streamErrors(onError), stepsInterceptor(steps)],
    steps,
    live: createLiveCalls(shutdown.signal),
    halfDuplex: new Set(options.halfDuplex),
    slowUnary: options.slowUnary ?? false,
    policyOf,
    registry,
    shutdownSignal: shutdown.signal,
  };
  const bridge = createSocketBridge(options.sockets ?? [], services, {
    ...deps,
    origins: options.corsOrigins ?? [],
    closing: closing.signal,
    limits: options.socketLimits,
  });
  const mountDeps = { steps, shutdownSignal: shutdown.signal };
  const raw = rawEndpoints(mounts.filter(isRaw), mountDeps);
  const endpoints = [
    ...docs.map(docsEndpoint),
    ...rpcEndpoints(services, deps),
    ...restEndpoints(services, deps),
    ...raw,
    ...mountEndpoints(
      mounts.filter((mount): mount is Mount => !isRaw(mount)),
      mountDeps,
    ),
    ...bridge.endpoints,
  ];
  const shared = {
    openExchange: createExchanges({ trustedProxies: options.trustedProxies ?? [] }),
    observe: createObserver({ onFinish }),
    cors: createCors({ origins: options.corsOrigins ?? [] }),
    registry,
    onError,
  };
  const upgradeEndpoints = [...bridge.upgradeEndpoints, ...raw.map(withoutUpgrade)];
  const dispatchUpgrade = createDispatcher({ ...shared, endpoints: upgradeEndpoints });
  const port = createOnePort({
    onRequest: createDispatcher({ ...shared, endpoints }),
    onUpgrade: (request, socket, head) =>
      dispatchUpgrade(new Http1Arrival(request, bridge.open(request, socket, head))),
    mayBeSlow: streamedRequests(services, endpoints),
    tls: options.tls,
    ...(options.limits === undefined ? {} : { limits: options.limits }),
  });

  return {
    listen: port.listen,
    async close({ graceMs }) {
      closing.abort();
      const timer = setTimeout(() => shutdown.abort(stopping()), graceMs);
      await port.close({ graceMs: graceMs + lastWordsMs });
      clearTimeout(timer);
    },
    routes: () => endpoints.map(toRouteInfo),
  };
}

function withBuiltIns({ services, health }: EdgeOptions, closing: AbortSignal): ServiceEntry[] {
  const own = services.map(({ service }) => service);
  const named = own.map(({ typeName }) => typeName);
  const described = [...own, ServerReflection, ServerReflectionAlpha];
  const reflection = reflectionService({
    services: health === undefined ? described : [...described, Health],
  });
  return [
    ...services,
    ...(health === undefined
      ? []
      : [entry(Health, healthService({ source: health, services: named, closing }), openPolicy)]),
    entry(ServerReflection, reflection, openPolicy),
    entry(ServerReflectionAlpha, reflection, openPolicy),
  ];
}

/** Whether a request brings messages as they are made, or is for a route that watches its requests: it may take any time. */
function streamedRequests(
  services: readonly ServiceEntry[],
  endpoints: readonly Endpoint[],
): (arrival: Arrival) => boolean {
  const streamed = new Set(
    services.flatMap(({ service }) =>
      service.methods
        .filter(({ methodKind }) => /^(?:client|bidi)_streaming$/.test(methodKind))
        .map(methodName),
    ),
  );
  const routes = endpoints
    .filter(({ rpc, isSlow }) => isSlow === true || (rpc !== undefined && streamed.has(rpc)))
    .map(({ method, path, rpc = "" }) => {
      return { method, template: parseTemplate(path), name: rpc, value: rpc };
    });
  const table = createRouteTable(routes);
  return ({ method, url }) => table.match(method, splitTarget(url).path).kind === "match";
}

function isRaw(mount: Mount | RawMount): mount is RawMount {
  return "raw" in mount;
}

function docsEndpoint({ method, path, respond }: DocsRoute): Endpoint {
  return {
    method,
    path,
    rpc: undefined,
    policy: openPolicy,
    protocolOf: () => "http",
    serve({ arrival }: Hit) {
      sendReply(arrival, respond({ ifNoneMatch: arrival.header("if-none-match") }));
    },
  };
}

function toRouteInfo({ method, path, rpc = "", policy }: Endpoint): RouteInfo {
  const access = keyOf(Access, policy.access);
  const rateClass = keyOf(RateClass, policy.rateClass);
  return { method, path, rpc, access, rateClass };
}

function keyOf(values: Readonly<Record<string, number>>, wanted: number): string {
  return Object.keys(values).find((key) => values[key] === wanted) ?? String(wanted);
}

function stopping(): ConnectError {
  return new ConnectError("Cannot finish the call: the server stops", Code.Unavailable);
}
