import type { Registry } from "@bufbuild/protobuf";
import { context } from "@opentelemetry/api";
import type { Exchange } from "../rpc/call.ts";
import type { Arrival } from "./arrival.ts";
import type { Cors } from "./cors.ts";
import { type AnswerError, type Endpoint, Hit } from "./endpoint.ts";
import type { OpenExchange, Protocol } from "./exchange.ts";
import { copyHeaders, sendReply } from "./http-message.ts";
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
export function createDispatcher(deps: DispatchDeps): (arrival: Arrival) => void {
  const table = createRouteTable(
    deps.endpoints.map((endpoint) => ({
      method: endpoint.method,
      template: parseTemplate(endpoint.path),
      name: endpoint.rpc ?? "a plain route",
      value: endpoint,
    })),
  );
  const exact = exactEndpoints(deps.endpoints);
  const hosts = new Set(deps.endpoints.flatMap(({ host }) => host ?? []));
  const answer: AnswerError = (hit, thrown) => answerError(deps, hit, thrown);
  const run = (
    arrival: Arrival,
    endpoint: Endpoint,
    bindings: readonly string[],
    query: string,
  ): void => {
    if (hosts.size > 0 && isMisdirected(arrival, endpoint, hosts)) {
      refuse(deps, arrival, "http", misdirected);
      return;
    }
    runEndpoint(deps, { arrival, endpoint, bindings, query, answer });
  };

  return (arrival) => {
    const { method, url } = arrival;
    if (url.length > targetLengthMax) {
      refuse(deps, arrival, "http", () => {
        throw new HttpError(
          414,
          `Cannot read request: its target has over ${targetLengthMax} bytes`,
        );
      });
      return;
    }
    const { path, query } = splitTarget(url);
    const fixed = exact.get(path)?.get(method);
    if (fixed !== undefined) {
      run(arrival, fixed, none, query);
      return;
    }
    if (deps.cors.isPreflight(arrival)) {
      const asked = table.match(arrival.header("access-control-request-method") ?? "", path);
      if (asked.kind === "match" && asked.route.value.ownCors) {
        run(arrival, asked.route.value, asked.bindings, query);
        return;
      }
      refuse(deps, arrival, "http", ({ requestId }) => preflight(deps, asked, arrival, requestId));
      return;
    }
    const match = table.match(method, path);
    if (match.kind === "match") {
      const { route, bindings } = match;
      run(arrival, route.value, bindings, query);
      return;
    }
    if (hosts.size > 0 && isNamed(arrival, hosts)) {
      refuse(deps, arrival, "http", misdirected);
      return;
    }
    const protocol = isGrpc(arrival) ? "grpc" : "http";
    refuse(deps, arrival, protocol, ({ requestId }) => answerMiss(arrival, match, requestId));
  };
}

/** As much as all headers of HTTP/1.1 may take. */
const targetLengthMax = 16 * 1024;

const none: readonly string[] = [];

type Miss = Exclude<ReturnType<RouteTable<Endpoint>["match"]>, { kind: "match" }>;

/** Paths without variables, by path and method: they win over templates that fit as well. */
function exactEndpoints(endpoints: readonly Endpoint[]): Map<string, Map<string, Endpoint>> {
  const exact = new Map<string, Map<string, Endpoint>>();
  for (const endpoint of endpoints) {
    const isFixed = /^[\w./:-]+$/.test(endpoint.path) && endpoint.method !== "*";
    if (isFixed) {
      const methods = exact.get(endpoint.path) ?? new Map<string, Endpoint>();
      exact.set(endpoint.path, methods.set(endpoint.method, endpoint));
    }
  }
  return exact;
}

function isMisdirected(arrival: Arrival, { host }: Endpoint, hosts: ReadonlySet<string>): boolean {
  return isNamed(arrival, host === undefined ? hosts : new Set([host])) !== (host !== undefined);
}

/** Whether the client named one of the hosts. One without a port is meant with any. */
function isNamed({ authority = "" }: Arrival, hosts: ReadonlySet<string>): boolean {
  const named = authority.toLowerCase();
  return hosts.has(named) || hosts.has(named.replace(/:\d*$/, ""));
}

function misdirected(): never {
  throw new HttpError(421, "Cannot serve this here: it belongs to another host");
}

interface Run {
  readonly arrival: Arrival;
  readonly endpoint: Endpoint;
  readonly bindings: readonly string[];
  readonly query: string;
  readonly answer: AnswerError;
}

function runEndpoint(
  deps: DispatchDeps,
  { arrival, endpoint, bindings, query, answer }: Run,
): void {
  const protocol = endpoint.protocolOf(arrival);
  const exchange = deps.openExchange(arrival, protocol);
  const route = endpoint.rpc !== undefined && protocol !== "rest" ? endpoint.rpc : endpoint.path;
  const observed = { protocol, requestId: exchange.requestId, route, rpc: endpoint.rpc };
  const span = deps.observe(arrival, observed);
  if (endpoint.ownCors !== true) {
    deps.cors.mark(arrival);
  }
  const hit = new Hit(arrival, exchange, bindings, query, answer);
  if (span === undefined) {
    serve(deps, endpoint, hit);
  } else {
    context.with(span, serve, undefined, deps, endpoint, hit);
  }
}

/** Answer a request that has no endpoint. */
function refuse(
  deps: DispatchDeps,
  arrival: Arrival,
  protocol: Protocol,
  answer: (exchange: Exchange) => void,
): void {
  const exchange = deps.openExchange(arrival, protocol);
  const observed = { protocol, requestId: exchange.requestId, route: "unmatched" };
  const span = deps.observe(arrival, observed);
  deps.cors.mark(arrival);
  context.with(span ?? context.active(), () => {
    try {
      answer(exchange);
    } catch (error) {
      answerError(deps, { arrival, exchange }, error);
    }
  });
}

type Parties = Pick<Hit, "arrival" | "exchange">;

function serve(deps: DispatchDeps, endpoint: Endpoint, hit: Hit): void {
  try {
    endpoint.serve(hit)?.catch((error) => answerError(deps, hit, error));
  } catch (error) {
    answerError(deps, hit, error);
  }
}

function answerError(deps: DispatchDeps, parties: Parties, thrown: unknown): void {
  const { arrival, exchange } = parties;
  const shown = toConnectError(thrown);
  const isTold = thrown instanceof HttpError || thrown instanceof BindError;
  if (shown !== thrown && !isTold) {
    deps.onError(thrown, exchange);
  }
  if (arrival.headersSent) {
    arrival.breakOff();
    return;
  }
  copyHeaders(shown.metadata, arrival);
  const format = negotiate(arrival.header("accept")) === "problem" ? "problem" : "json";
  const { registry } = deps;
  const { requestId } = exchange;
  const reply = toErrorReply(thrown, { format, registry, instance: requestId, requestId });
  if (reply.status === 401) {
    arrival.setHeader("www-authenticate", "Bearer");
  }
  sendReply(arrival, reply);
}

function answerMiss(arrival: Arrival, miss: Miss, requestId: string): void {
  if (isGrpc(arrival)) {
    sendUnimplemented(arrival, requestId);
    return;
  }
  switch (miss.kind) {
    case "notFound":
      throw new HttpError(404, "Cannot find anything at this path");
    case "badPath":
      throw new HttpError(miss.status, `Cannot read path: it ${miss.reason}`);
    case "methodNotAllowed": {
      const allow = miss.allow.join(", ");
      if (arrival.method !== "OPTIONS") {
        throw new HttpError(405, "Cannot use this method here", { allow });
      }
      sendReply(arrival, { status: 204, headers: { allow }, body: "" });
    }
  }
}

function preflight(
  { cors }: DispatchDeps,
  match: ReturnType<RouteTable<Endpoint>["match"]>,
  arrival: Arrival,
  requestId: string,
): void {
  const method = arrival.header("access-control-request-method") ?? "";
  if (match.kind === "notFound" || match.kind === "badPath") {
    answerMiss(arrival, match, requestId);
    return;
  }
  const methods = match.kind === "match" ? [method] : match.allow;
  cors.permit(arrival, methods);
  sendReply(arrival, { status: 204, headers: { allow: methods.join(", ") }, body: "" });
}
