import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { expect, test } from "vitest";
import { CatalogService } from "../gen/callora/catalog/v1/catalog_service_pb.ts";
import { type Span, startReceiver } from "./support/otlp.ts";
import { makeDataDir, start } from "./support/process.ts";

const serverKind = 2;
/** Several times what the first start of a server takes on a busy machine. */
const timeout = 90_000;

test("a call is one trace, from its caller to its queries, over HTTP/1.1 and h2", {
  timeout,
}, async () => {
  const receiver = await startReceiver();
  await using dataDir = await makeDataDir();
  const server = start(dataDir.path, {
    OTEL_EXPORTER_OTLP_ENDPOINT: receiver.endpoint,
    OTEL_EXPORTER_OTLP_PROTOCOL: "http/json",
  });
  const url = await server.url();
  const traces = {
    "GET /api/apis": "1".repeat(32),
    "callora.catalog.v1.CatalogService/ListApis": "2".repeat(32),
  };

  const traceparent = (traceId: string) => ({ traceparent: `00-${traceId}-00f067aa0ba902b7-01` });
  await fetch(`${url}/api/apis`, { headers: traceparent(traces["GET /api/apis"]) });
  const transport = createGrpcTransport({ baseUrl: url });
  const headers = traceparent(traces["callora.catalog.v1.CatalogService/ListApis"]);
  await createClient(CatalogService, transport).listApis({}, { headers });
  server.kill("SIGTERM");
  await server.exited;

  for (const [name, traceId] of Object.entries(traces)) {
    const spans = receiver.spans().filter((span) => span.traceId === traceId);
    const entry = spans.find(({ kind }) => kind === serverKind);
    expect(entry, name).toMatchObject({ parentSpanId: "00f067aa0ba902b7" });
    const queries = spans.filter((span) => attributeOf(span, "db.query.text")?.includes("apis"));
    expect(queries, name).not.toEqual([]);
    expect(queries.every(({ parentSpanId }) => parentSpanId === entry?.spanId)).toBe(true);
  }
});

test("metrics name routes by their template, never by the path that was asked for", {
  timeout,
}, async () => {
  await using dataDir = await makeDataDir();
  const server = start(dataDir.path);
  const url = await server.url();

  await fetch(`${url}/api/apis/api_00000000000000000000000000`);
  await fetch(`${url}/nothing/here/at/all`);
  const metrics = await (await fetch(`${url}/api/metrics`)).text();
  server.kill("SIGTERM");
  await server.exited;

  expect(metrics).toContain(
    'http_requests_total{method="GET",route="/api/apis/{api_id}",status_code="401"} 1',
  );
  expect(metrics).toContain('route="unmatched",status_code="404"');
  expect(metrics).toMatch(/http_request_duration_seconds_bucket\{[^}]*route="\/api\/apis/);
  expect(metrics).not.toMatch(/nothing|api_0000/);
  expect(metrics).toContain("nodejs_heap_size_total_bytes");
});

function attributeOf(span: Span, name: string): string | undefined {
  return span.attributes.find(({ key }) => key === name)?.value.stringValue;
}
