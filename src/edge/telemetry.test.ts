import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { SpanKind, trace } from "@opentelemetry/api";
import { NodeSDK, type NodeSDKConfiguration } from "@opentelemetry/sdk-node";
import { expect, test } from "vitest";
import { LibraryService } from "../../test/gen/callora/test/v1/library_service_pb.ts";
import { startEdge } from "../../test/support/edge.ts";
import { openPolicy } from "../rpc/policy.ts";
import { endResponse } from "./http-message.ts";

type Processor = NonNullable<NodeSDKConfiguration["spanProcessors"]>[number];
type Span = Parameters<Processor["onEnd"]>[0];

const traceId = "0af7651916cd43dd8448eb211c80319c";
const traceparent = `00-${traceId}-b7ad6b7169203331-01`;

test("a request is a SERVER span of the caller's trace, over HTTP/1.1 and HTTP/2", async () => {
  const spans: Span[] = [];
  const inside: (string | undefined)[] = [];
  await using at = await startEdge({
    mounts: [
      {
        method: "GET",
        pattern: "/v1/call/{api}",
        policy: openPolicy,
        handler: async (_request, response) => {
          inside.push(trace.getActiveSpan()?.spanContext().traceId);
          endResponse(response);
        },
      },
    ],
  });
  const report = async (call: () => Promise<unknown>) => {
    const finish = at.nextFinish();
    await call();
    await finish;
  };
  await report(() => fetch(`${at.url}/v1/books/b1`));
  const untraced = at.finished[0]?.traceId;
  const sdk = startSdk(spans);

  const client = createClient(LibraryService, createGrpcTransport({ baseUrl: at.url }));
  await report(() => fetch(`${at.url}/v1/books/crash`, { headers: { traceparent } }));
  await report(() => client.getBook({ id: "b1" }, { headers: { traceparent } }));
  await report(() => fetch(`${at.url}/v1/call/maps`, { headers: { traceparent } }));
  await sdk.shutdown();

  expect(untraced).toBe("");
  expect(at.finished.slice(1).map((finish) => finish.traceId)).toEqual(Array(3).fill(traceId));
  expect(inside).toEqual([traceId]);
  expect(spans.map(({ name, kind, attributes }) => ({ name, kind, attributes }))).toEqual([
    {
      name: "GET /v1/books/{id}",
      kind: SpanKind.SERVER,
      attributes: {
        "http.request.method": "GET",
        "http.route": "/v1/books/{id}",
        "http.response.status_code": 500,
        "rpc.method": "callora.test.v1.LibraryService/GetBook",
        "rpc.status_code": "Internal",
      },
    },
    {
      name: "callora.test.v1.LibraryService/GetBook",
      kind: SpanKind.SERVER,
      attributes: {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "rpc.method": "callora.test.v1.LibraryService/GetBook",
        "rpc.system.name": "grpc",
      },
    },
    {
      name: "GET /v1/call/{api}",
      kind: SpanKind.SERVER,
      attributes: {
        "http.request.method": "GET",
        "http.route": "/v1/call/{api}",
        "http.response.status_code": 200,
      },
    },
  ]);
});

function startSdk(spans: Span[]): NodeSDK {
  const processor: Processor = {
    onStart: () => {},
    onEnd: (span) => void spans.push(span),
    forceFlush: () => Promise.resolve(),
    shutdown: () => Promise.resolve(),
  };
  const sdk = new NodeSDK({
    spanProcessors: [processor],
    metricReaders: [],
    logRecordProcessors: [],
  });
  sdk.start();
  return sdk;
}
