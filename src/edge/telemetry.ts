import {
  type Context,
  ProxyTracerProvider,
  propagation,
  ROOT_CONTEXT,
  type Span,
  SpanKind,
  SpanStatusCode,
  type TextMapGetter,
  trace,
} from "@opentelemetry/api";
import type { Arrival } from "./arrival.ts";
import type { Protocol } from "./exchange.ts";

/** What is known of a request once its reply has ended. */
export interface Finish {
  readonly method: string;
  /** A path template, `pkg.Service/Method`, or "unmatched": never a path as sent. */
  readonly route: string;
  /** 499 if the client left before there was a status. */
  readonly statusCode: number;
  readonly durationMs: number;
  readonly protocol: Protocol;
  readonly requestId: string;
  /** Empty without a recorded trace. */
  readonly traceId: string;
}

/** What a request is, before it is served. */
export interface Observed {
  readonly protocol: Protocol;
  readonly requestId: string;
  readonly route: string;
  /** `pkg.Service/Method`, if an RPC serves the request. */
  readonly rpc?: string | undefined;
}

/** Opens the span of a request and tells of its end. The work is to run in the context that it returns. */
export type Observe = (arrival: Arrival, observed: Observed) => Context | undefined;

const clientLeft = 499;

/** Prepare to observe requests: one SERVER span each, and one call of `onFinish`. */
export function createObserver({ onFinish }: { onFinish: (finish: Finish) => void }): Observe {
  const tracer = trace.getTracer("callora.edge");
  const nothing = new ProxyTracerProvider().getDelegate();

  // Asked for each request, since an SDK may be registered later than this is called.
  function isTracing(): boolean {
    const provider = trace.getTracerProvider();
    return !(provider instanceof ProxyTracerProvider) || provider.getDelegate() !== nothing;
  }

  return (arrival, observed) => {
    const startMs = performance.now();
    const parent = isTracing() ? parentOf(arrival) : undefined;
    const span = parent && tracer.startSpan(nameOf(arrival, observed), spanOptions, parent);
    if (span?.isRecording()) {
      describe(span, arrival, observed);
    }
    arrival.onceClosed(() => {
      const statusCode = arrival.headersSent ? arrival.status : clientLeft;
      if (span !== undefined) {
        endSpan(span, statusCode);
      }
      onFinish({
        method: arrival.method,
        route: observed.route,
        statusCode,
        durationMs: performance.now() - startMs,
        protocol: observed.protocol,
        requestId: observed.requestId,
        traceId: span?.spanContext().traceId ?? "",
      });
    });
    return parent && span && trace.setSpan(parent, span);
  };
}

const spanOptions = { kind: SpanKind.SERVER };

const headerGetter: TextMapGetter<Arrival["headers"]> = {
  keys: (headers) => Object.keys(headers),
  get: (headers, name) => headers[name],
};

function parentOf({ headers }: Arrival): Context {
  return propagation.extract(ROOT_CONTEXT, headers, headerGetter);
}

function nameOf({ method }: Arrival, { protocol, route, rpc }: Observed): string {
  if (rpc !== undefined && protocol !== "rest") {
    return rpc;
  }
  return route === "unmatched" ? method : `${method} ${route}`;
}

function describe(span: Span, { method }: Arrival, { protocol, route, rpc }: Observed): void {
  span.setAttribute("http.request.method", method);
  if (rpc !== undefined) {
    span.setAttribute("rpc.method", rpc);
  }
  if (rpc === undefined || protocol === "rest") {
    span.setAttribute("http.route", route);
  } else {
    span.setAttribute("rpc.system.name", protocol === "connect" ? "connectrpc" : "grpc");
  }
}

function endSpan(span: Span, statusCode: number): void {
  span.setAttribute("http.response.status_code", statusCode);
  if (statusCode >= 500) {
    span.setStatus({ code: SpanStatusCode.ERROR });
  }
  span.end();
}
