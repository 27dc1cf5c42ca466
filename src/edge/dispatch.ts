import type { Registry } from "@bufbuild/protobuf";
import type { Exchange } from "../rpc/call.ts";
import type { Cors } from "./cors.ts";
import type { Endpoint, Hit } from "./endpoint.ts";
import type { OpenExchange, Protocol } from "./exchange.ts";
import {
  breakOff,
  copyHeaders,
  type HttpRequest,
  type HttpResponse,
  headerOf,
  sendReply,
} from "./http-message.ts";
import { BindError, HttpError } from "./rest/errors.ts";
import { negotiate } from "./rest/media-type.ts";
import { splitTarget } from "./rest/path.ts";
import { createRouteTable, type RouteTable } from "./rest/route-table.ts";
import { toConnectError, toErrorReply } from "./rest/status.ts";
import { parseTemplate } from "./rest/template.ts";
import { isGrpc, sendUnimplemented } from "./rpc-handler.ts";
import type { Observe } from "./telemetry.ts";

/** What the dispatcher of a server needs. */
export interface DispatchDeps {
  /** In order of precedence where the same path is asked for: clashes are refused. */
  readonly endpoints: readonly Endpoint[];
  readonly openExchange: OpenExchange;
  readonly observe: Observe;
  readonly cors: Cors;
  readonly registry: Registry;
  readonly onError: (error: unknown, exchange: Exchange) => void;
}

/**
 * Lead each request to its endpoint, and answer those that have none. Throws if two endpoints have
 * the same method and shape of path.
 */
export function createDispatcher(
  deps: DispatchDeps,
): (request: HttpRequest, response: HttpResponse) => void {
  const table = createRouteTable(
    deps.endpoints.map((endpoint) => ({
      method: endpoint.method,
      template: parseTemplate(endpoint.path),
      name: endpoint.rpc ?? "a plain route",
      value: endpoint,
    })),
  );
  const exact = exactEndpoints(deps.endpoints);

  return (request, response) => {
    const { path, query } = splitTarget(request.url ?? "/");
    const method = request.method ?? "";
    const fixed = exact.get(path)?.get(method);
    if (fixed !== undefined) {
      run(deps, { request, response, query, endpoint: fixed, bindings: [] });
      return;
    }
    if (deps.cors.isPreflight(request)) {
      refuse(deps, { request, response }, "http", () => preflight(deps, table, request, response));
      return;
    }
    const match = table.match(method, path);
    if (match.kind === "match") {
      const { route, bindings } = match;
      run(deps, { request, response, query, endpoint: route.value, bindings });
      return;
    }
    const protocol = isGrpc(request) ? "grpc" : "http";
    refuse(deps, { request, response }, protocol, () => answerMiss(request, response, match));
  };
}

type Miss = Exclude<ReturnType<RouteTable<Endpoint>["match"]>, { kind: "match" }>;

/** Paths without variables, by path and method: they win over templates that fit as well. */
function exactEndpoints(endpoints: readonly Endpoint[]): Map<string, Map<string, Endpoint>> {
  const exact = new Map<string, Map<string, Endpoint>>();
  for (const endpoint of endpoints) {
    const isFixed = /^[\w./-]+$/.test(endpoint.path) && endpoint.method !== "*";
    if (isFixed) {
      const methods = exact.get(endpoint.path) ?? new Map<string, Endpoint>();
      exact.set(endpoint.path, methods.set(endpoint.method, endpoint));
    }
  }
  return exact;
}

function run(
  deps: DispatchDeps,
  {
    request,
    response,
    query,
    endpoint,
    bindings,
  }: Pick<Hit, "request" | "response" | "query" | "bindings"> & { endpoint: Endpoint },
): void {
  const protocol = endpoint.protocolOf(request);
  const exchange = deps.openExchange(request, response, protocol);
  const route = endpoint.rpc !== undefined && protocol !== "rest" ? endpoint.rpc : endpoint.path;
  const observed = { protocol, requestId: exchange.requestId, route, rpc: endpoint.rpc };
  deps.observe({ request, response }, observed, () => {
    deps.cors.mark(request, response);
    const hit = { request, response, exchange, bindings, query };
    void settle(deps, hit, () => endpoint.serve(hit));
  });
}

/** Answer a request that has no endpoint. */
function refuse(
  deps: DispatchDeps,
  { request, response }: Pick<Hit, "request" | "response">,
  protocol: Protocol,
  answer: () => void,
): void {
  const exchange = deps.openExchange(request, response, protocol);
  const observed = { protocol, requestId: exchange.requestId, route: "unmatched" };
  deps.observe({ request, response }, observed, () => {
    deps.cors.mark(request, response);
    void settle(deps, { request, response, exchange }, answer);
  });
}

type Parties = Pick<Hit, "request" | "response" | "exchange">;

async function settle(
  deps: DispatchDeps,
  parties: Parties,
  work: () => void | Promise<void>,
): Promise<void> {
  try {
    await work();
  } catch (error) {
    answerError(deps, parties, error);
  }
}

function answerError(deps: DispatchDeps, parties: Parties, thrown: unknown): void {
  const { request, response, exchange } = parties;
  const shown = toConnectError(thrown);
  const isTold = thrown instanceof HttpError || thrown instanceof BindError;
  if (shown !== thrown && !isTold) {
    deps.onError(thrown, exchange);
  }
  if (response.headersSent) {
    if (!response.writableEnded) {
      breakOff(response);
    }
    return;
  }
  copyHeaders(shown.metadata, response);
  const format = negotiate(headerOf(request, "accept")) === "problem" ? "problem" : "json";
  const { registry } = deps;
  const { requestId } = exchange;
  const reply = toErrorReply(thrown, { format, registry, instance: requestId, requestId });
  if (reply.status === 401) {
    response.setHeader("www-authenticate", "Bearer");
  }
  sendReply(request, response, reply);
}

function answerMiss(request: HttpRequest, response: HttpResponse, miss: Miss): void {
  if (isGrpc(request)) {
    sendUnimplemented(request, response);
    return;
  }
  switch (miss.kind) {
    case "notFound":
      throw new HttpError(404, "Cannot find anything at this path");
    case "badPath":
      throw new HttpError(miss.status, `Cannot read path: it ${miss.reason}`);
    case "methodNotAllowed": {
      const allow = miss.allow.join(", ");
      if (request.method !== "OPTIONS") {
        throw new HttpError(405, "Cannot use this method here", { allow });
      }
      sendReply(request, response, { status: 204, headers: { allow }, body: "" });
    }
  }
}

function preflight(
  { cors }: DispatchDeps,
  table: RouteTable<Endpoint>,
  request: HttpRequest,
  response: HttpResponse,
): void {
  const { path } = splitTarget(request.url ?? "/");
  const method = headerOf(request, "access-control-request-method") ?? "";
  const match = table.match(method, path);
  if (match.kind === "notFound" || match.kind === "badPath") {
    answerMiss(request, response, match);
    return;
  }
  const methods = match.kind === "match" ? [method] : match.allow;
  cors.permit(request, response, methods);
  sendReply(request, response, { status: 204, headers: { allow: methods.join(", ") }, body: "" });
}
