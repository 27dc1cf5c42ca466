import { type IncomingMessage, ServerResponse } from "node:http";
import type { Socket } from "node:net";
import { create, type DescMessage, type Message } from "@bufbuild/protobuf";
import {
  Code,
  createContextValues,
  createHandlerContext,
  createServiceImplSpec,
  type HandlerContext,
  type MethodImplSpec,
} from "@connectrpc/connect";
import { createAsyncIterable, transformInvokeImplementation } from "@connectrpc/connect/protocol";
import { type WebSocket, WebSocketServer } from "ws";
import { callOf, exchangeKey } from "../rpc/call.ts";
import { reasoned, toConnectError } from "../rpc/errors.ts";
import { methodName, openPolicy } from "../rpc/policy.ts";
import type { Endpoint, Hit } from "./endpoint.ts";
import type { HttpRequest, HttpResponse } from "./http-message.ts";
import { encodeBody } from "./rest/body.ts";
import { HttpError } from "./rest/errors.ts";
import { compilePath, resolveTextField } from "./rest/field-path.ts";
import { compileQuery } from "./rest/query.ts";
import { statusJson } from "./rest/status.ts";
import { parseTemplate } from "./rest/template.ts";
import type { HandlerDeps } from "./rpc-handler.ts";
import type { ServiceEntry } from "./service-entry.ts";
import { credentialsOf, protocolName } from "./websocket-credentials.ts";
import { closeCodes, createSession, type SocketLimits } from "./websocket-session.ts";

/** An RPC whose responses are sent over a WebSocket, each as a text message of JSON. */
export interface SocketRoute {
  /** A path template. Its variables and the query make the request. */
  readonly path: string;
  /** `pkg.Service/Method`, which must stream its responses and nothing else. */
  readonly rpc: string;
}

/** What the bridge needs. */
export interface SocketDeps extends HandlerDeps {
  /** Origins other than ours whose pages may open a WebSocket. */
  readonly origins: readonly string[];
  /** Aborted once the server begins to stop. */
  readonly closing: AbortSignal;
  readonly limits?: Partial<SocketLimits> | undefined;
}

/** WebSockets as endpoints, so that they pass what every request passes. */
export interface SocketBridge {
  /** Tell requests without an upgrade what to do. */
  readonly endpoints: Endpoint[];
  /** Serve upgrades, and refuse those of all other paths. */
  readonly upgradeEndpoints: Endpoint[];
  /** The reply of an upgrade, to be handed on with its request. */
  open(request: IncomingMessage, socket: Socket, head: Buffer): ServerResponse;
}

const defaultLimits: SocketLimits = {
  pingIntervalMs: 30_000,
  pongTimeoutMs: 10_000,
  recheckIntervalMs: 60_000,
  recheckFailuresMax: 3,
  bufferedBytesMax: 1024 * 1024,
  connectionsPerCallerMax: 20,
};

/** Most bytes of a message from a client. */
const payloadBytesMax = 64 * 1024;

type StreamSpec = Extract<MethodImplSpec, { kind: "server_streaming" }>;

/**
 * Prepare to serve RPCs over WebSockets. Throws if one is not there, does not stream its responses, or has
 * a path that does not fit its request.
 */
export function createSocketBridge(
  routes: readonly SocketRoute[],
  entries: readonly ServiceEntry[],
  deps: SocketDeps,
): SocketBridge {
  const upgrades = new WeakMap<HttpRequest, { socket: Socket; head: Buffer }>();
  const server = new WebSocketServer({
    noServer: true,
    clientTracking: false,
    maxPayload: payloadBytesMax,
    perMessageDeflate: false,
    handleProtocols: (names) => names.has(protocolName) && protocolName,
  });
  server.on("headers", (lines: string[], request: IncomingMessage) => {
    lines.push(...(headerLines.get(request) ?? []));
  });
  const headerLines = new WeakMap<IncomingMessage, string[]>();
  const limits = { ...defaultLimits, ...deps.limits };
  const callers = createCounter(limits.connectionsPerCallerMax);
  const accept = (hit: Hit) =>
    new Promise<WebSocket>((resolve, reject) => {
      const { response } = hit;
      const request = hit.request as IncomingMessage;
      const upgrade = upgrades.get(request);
      if (upgrade === undefined || upgrade.socket.destroyed) {
        reject(clientLeft());
        return;
      }
      upgrade.socket.once("close", () => reject(clientLeft()));
      headerLines.set(request, linesOf(response));
      detach(response as ServerResponse, upgrade.socket);
      server.handleUpgrade(request, upgrade.socket, upgrade.head, resolve);
    });
  const served = routes.map((route) => {
    const spec = findSpec(route, entries);
    return socketEndpoint(route, spec, { ...deps, limits, callers, accept });
  });

  return {
    endpoints: served.map((endpoint) => ({ ...endpoint, protocolOf: () => "http", serve: refuse })),
    upgradeEndpoints: [...served, ...nowhere],
    open(request, socket, head) {
      upgrades.set(request, { socket, head });
      const response = new ServerResponse(request);
      response.shouldKeepAlive = false;
      response.assignSocket(socket);
      response.once("finish", () => socket.destroySoon());
      return response;
    },
  };
}

/** Refuse a request that does not ask for an upgrade. */
function refuse({ request }: Hit): void {
  const message = "Cannot answer without a WebSocket: ask for an upgrade, over HTTP/1.1";
  // HTTP/2 knows no such header.
  throw new HttpError(426, message, "stream" in request ? {} : { upgrade: "websocket" });
}

/** The endpoint of upgrades of a plain route, which takes none. */
export function withoutUpgrade(endpoint: Endpoint): Endpoint {
  return {
    ...endpoint,
    serve() {
      throw new HttpError(501, "Cannot pass a WebSocket on: calls are plain HTTP");
    },
  };
}

const nowhere: readonly Endpoint[] = ["/", "/{path=**}"].map((path) => ({
  method: "*",
  path,
  rpc: undefined,
  policy: openPolicy,
  protocolOf: () => "http",
  serve() {
    throw new HttpError(400, "Cannot open a WebSocket at this path: no stream is served there");
  },
}));

function findSpec({ path, rpc }: SocketRoute, entries: readonly ServiceEntry[]): StreamSpec {
  for (const { service, implementation } of entries) {
    for (const spec of Object.values(createServiceImplSpec(service, implementation).methods)) {
      if (methodName(spec.method) === rpc) {
        if (spec.kind !== "server_streaming") {
          throw new Error(`Cannot serve ${rpc} at "${path}": it must stream its responses alone`);
        }
        return spec;
      }
    }
  }
  throw new Error(`Cannot serve ${rpc} at "${path}": there is no such RPC`);
}

interface EndpointDeps extends Omit<SocketDeps, "limits"> {
  readonly limits: SocketLimits;
  readonly callers: ReturnType<typeof createCounter>;
  readonly accept: (hit: Hit) => Promise<WebSocket>;
}

function socketEndpoint(route: SocketRoute, spec: StreamSpec, deps: EndpointDeps): Endpoint {
  const { registry } = deps;
  const bind = compileBind(route, spec);
  return {
    method: "GET",
    path: route.path,
    rpc: route.rpc,
    policy: deps.policyOf(route.rpc),
    protocolOf: () => "websocket",
    async serve(hit) {
      checkHandshake(hit.request);
      if (deps.closing.aborted) {
        throw stopping();
      }
      const header = credentialsOf(hit.request, deps.origins);
      const call = new AbortController();
      const context = openContext(hit, { header, spec, deps, signal: call.signal });
      await deps.admit(context);
      const message = bind(hit);
      const { principal, exchange } = callOf(context);
      const leave = deps.callers.enter(principal?.id ?? exchange.clientIp);
      try {
        const socket = await deps.accept(hit);
        const session = createSession(socket, {
          limits: deps.limits,
          recheck: () => deps.admit(openContext(hit, { header, spec, deps, signal: call.signal })),
          toConnectError,
        });
        session.signal.addEventListener("abort", () => call.abort(session.signal.reason));
        const stop = () => session.close(closeCodes.serverStops, "the server stops");
        deps.closing.addEventListener("abort", stop);
        const closed = new Promise<void>((resolve) => socket.once("close", () => resolve()));
        const texts = answers({ spec, message, context, deps });
        const errorText = (error: Parameters<typeof statusJson>[0]) =>
          JSON.stringify({ error: statusJson(error, registry) });
        void session.send(texts, errorText);
        await closed;
        deps.closing.removeEventListener("abort", stop);
      } finally {
        leave();
        context.abort(clientLeft());
        hit.response.emit("close");
      }
    },
  };
}

function compileBind({ path, rpc }: SocketRoute, { method }: StreamSpec): (hit: Hit) => Message {
  const fields = parseTemplate(path).variables.map(({ fieldPath }) => {
    const found = resolveTextField(method.input, fieldPath);
    if ("reason" in found) {
      throw new Error(`Cannot serve ${rpc} at "${path}": "${fieldPath.join(".")}" ${found.reason}`);
    }
    return found;
  });
  const bindPath = compilePath(fields);
  const bindQuery = compileQuery(
    method.input,
    fields.map(({ path: names }) => names),
  );
  return ({ query, bindings }) => {
    const message = create(method.input);
    if (query !== "") {
      bindQuery(message, query);
    }
    bindPath(message, bindings);
    return message;
  };
}

function checkHandshake({ headers }: HttpRequest): void {
  if (headers["sec-websocket-version"] !== "13") {
    const supported = { "sec-websocket-version": "13" };
    throw new HttpError(426, "Cannot open a WebSocket of another version than 13", supported);
  }
  if (!/^[+/0-9A-Za-z]{22}==$/.test(String(headers["sec-websocket-key"] ?? ""))) {
    throw new HttpError(400, "Cannot open a WebSocket: Sec-WebSocket-Key is missing or malformed");
  }
}

function openContext(
  { request, exchange }: Hit,
  {
    header,
    spec,
    deps,
    signal,
  }: { header: Headers; spec: StreamSpec; deps: EndpointDeps; signal: AbortSignal },
): HandlerContext & { abort(reason: unknown): void } {
  return createHandlerContext({
    service: spec.method.parent,
    method: spec.method,
    protocolName: "websocket",
    requestMethod: "GET",
    url: request.url ?? "",
    requestSignal: signal,
    shutdownSignal: deps.shutdownSignal,
    requestHeader: header,
    contextValues: createContextValues().set(exchangeKey, exchange),
  });
}

async function* answers({
  spec,
  message,
  context,
  deps,
}: {
  spec: StreamSpec;
  message: Message;
  context: HandlerContext;
  deps: EndpointDeps;
}): AsyncIterable<string> {
  const invoke = transformInvokeImplementation<DescMessage, DescMessage>(spec, context, [
    ...deps.interceptors,
  ]);
  for await (const answer of invoke(createAsyncIterable([message]))) {
    yield encodeBody(spec.method.output, answer, undefined, { registry: deps.registry });
  }
}

/** Counts connections by caller. */
function createCounter(max: number) {
  const counts = new Map<string, number>();
  return {
    /** Throws RESOURCE_EXHAUSTED if there are too many. Returns how to leave. */
    enter(caller: string): () => void {
      const count = counts.get(caller) ?? 0;
      if (count >= max) {
        throw reasoned(Code.ResourceExhausted, {
          reason: "TOO_MANY_CONNECTIONS",
          message: `Cannot open another WebSocket: there are ${max} already`,
        });
      }
      counts.set(caller, count + 1);
      return () => {
        const left = (counts.get(caller) ?? 1) - 1;
        if (left === 0) {
          counts.delete(caller);
        } else {
          counts.set(caller, left);
        }
      };
    },
  };
}

/** What the edge has to say of a request, for the head that the WebSocket's library writes. */
function linesOf(response: HttpResponse): string[] {
  return Object.entries(response.getHeaders())
    .filter(([name]) => name.startsWith("x-r"))
    .map(([name, value]) => `${name}: ${value}`);
}

// From here on the socket is not this reply's. Its status is kept for the record of the request.
function detach(response: ServerResponse, socket: Socket): void {
  response.detachSocket(socket);
  response.writeHead(101);
}

function clientLeft() {
  return reasoned(Code.Canceled, { reason: "CANCELED", message: "the client left" });
}

function stopping() {
  const message = "Cannot open a WebSocket: the server stops";
  return reasoned(Code.Unavailable, { reason: "NOT_READY", message, retryAfterMs: 1_000 });
}
