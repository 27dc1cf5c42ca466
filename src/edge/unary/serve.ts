import type { Registry } from "@bufbuild/protobuf";
import type { MethodImplSpec } from "@connectrpc/connect";
import { contentTypeUnaryRegExp } from "@connectrpc/connect/protocol-connect";
import { contentTypeRegExp } from "@connectrpc/connect/protocol-grpc";
import { type Arrival, Http2Arrival } from "../arrival.ts";
import type { Hit } from "../endpoint.ts";
import { connectUnary } from "./connect.ts";
import { grpcUnary } from "./grpc.ts";
import { type UnaryDeps, unaryMethod } from "./invoke.ts";

/** Serves a request straight from the socket to the handler. Undefined: it is not for this path. */
export type ServeUnary = (hit: Hit) => Promise<void> | undefined;

/** Serve a unary method over gRPC on HTTP/2 and over Connect by POST, and nothing else. */
export function unaryServer(
  spec: Extract<MethodImplSpec, { kind: "unary" }>,
  deps: UnaryDeps & { readonly registry: Registry },
): ServeUnary {
  const unary = unaryMethod(spec, deps);
  const grpc = grpcUnary(unary, deps.registry);
  const connect = connectUnary(unary, deps.registry);

  return (hit) => {
    const { arrival } = hit;
    const contentType = arrival.header("content-type") ?? "";
    const format = formats.get(contentType) ?? parseFormat(contentType);
    if (format === undefined || arrival.method !== "POST" || !hasSaneHost(arrival)) {
      return undefined;
    }
    if (format.protocol === "connect") {
      return connect(hit, format.codec);
    }
    return arrival instanceof Http2Arrival ? grpc(hit, format.codec) : undefined;
  };
}

interface Format {
  readonly protocol: "grpc" | "connect";
  readonly codec: "proto" | "json";
}

const formats: ReadonlyMap<string, Format> = new Map([
  ["application/grpc", { protocol: "grpc", codec: "proto" }],
  ["application/grpc+proto", { protocol: "grpc", codec: "proto" }],
  ["application/grpc+json", { protocol: "grpc", codec: "json" }],
  ["application/proto", { protocol: "connect", codec: "proto" }],
  ["application/json", { protocol: "connect", codec: "json" }],
]);

/** The same in other spellings. */
function parseFormat(contentType: string): Format | undefined {
  const codec = contentType.toLowerCase().includes("json") ? "json" : "proto";
  if (contentTypeRegExp.test(contentType)) {
    return { protocol: "grpc", codec };
  }
  return contentTypeUnaryRegExp.test(contentType) ? { protocol: "connect", codec } : undefined;
}

const plainHost = /^[\w.-]+(?::\d{1,5})?$/;

function hasSaneHost({ authority }: Arrival): boolean {
  return (
    authority !== undefined && (plainHost.test(authority) || URL.canParse(`http://${authority}`))
  );
}
