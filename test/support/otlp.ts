import { once } from "node:events";
import http from "node:http";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import { onTestFinished } from "vitest";

/** An attribute of a span. */
export interface Attribute {
  key: string;
  value: { stringValue?: string };
}

/** A span as it was received. */
export interface Span {
  traceId: string;
  spanId: string;
  parentSpanId?: string;
  name: string;
  kind: number;
  attributes: Attribute[];
}

/** A receiver of OTLP over HTTP and JSON. One that is deaf takes requests and never answers. */
export async function startReceiver({ isDeaf = false } = {}) {
  const bodies: string[] = [];
  const server = http.createServer((request, response) => {
    void text(request).then((body) => {
      bodies.push(body);
      if (!isDeaf) response.setHeader("content-type", "application/json").end("{}");
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  const { port } = server.address() as AddressInfo;
  const resources = () => bodies.flatMap((body) => JSON.parse(body).resourceSpans ?? []);
  return {
    endpoint: `http://127.0.0.1:${port}`,
    bodies,
    resource: (): Attribute[] => resources()[0]?.resource.attributes ?? [],
    spans: (): Span[] =>
      resources().flatMap(({ scopeSpans }) =>
        scopeSpans.flatMap(({ spans }: { spans: Span[] }) => spans),
      ),
  };
}
