import type { DescMessage, DescService, JsonObject } from "@bufbuild/protobuf";
import { restRoutes } from "../../src/edge/rest/rules.ts";
import { commentOf } from "./comments.ts";
import type { Contract } from "./contract.ts";
import { headerComponents, responseComponents } from "./headers.ts";
import { describeOperation, type Operation } from "./operations.ts";
import { createSchemaWriter } from "./schema.ts";

/**
 * Describe the REST side of services in one OpenAPI 3.1 document. Bidirectional streams are left
 * out: REST does not serve them. Throws if two bindings stand in one place.
 */
export function describeServices(
  services: readonly DescService[],
  contract: Contract,
  info: { readonly title: string; readonly version: string },
): JsonObject {
  const sorted = services.toSorted((a, b) => compare(a.typeName, b.typeName));
  const status = contract.message("google.rpc.Status");
  const outputs = sorted.flatMap(({ methods }) => methods.map(({ output }) => output));
  const schemas = createSchemaWriter(contract, reachable(outputs));
  const operations = sorted
    .filter((service) => service.methods.length > 0)
    .flatMap((service) => numbered(service))
    .map((binding) => describeOperation(binding, contract, schemas));
  const errorContent = {
    "application/json": { schema: schemas.message(status) },
    "application/problem+json": { schema: { $ref: "#/components/schemas/Problem" } },
  };
  return {
    openapi: "3.1.0",
    info: { ...info, description: "Published APIs, keys, usage, credits and payouts." },
    servers: [{ url: "/" }],
    tags: sorted.map((service) => ({ name: service.name, description: commentOf(service) })),
    paths: pathsOf(operations),
    components: {
      schemas: { ...schemas.components(), Problem: problemSchema },
      responses: responseComponents(errorContent),
      headers: headerComponents,
      securitySchemes,
    },
  };
}

function numbered(service: DescService) {
  const counts = new Map<string, number>();
  return restRoutes(service)
    .filter(({ rpc }) => rpc.methodKind !== "bidi_streaming")
    .map((rule) => {
      const number = (counts.get(rule.rpc.name) ?? 0) + 1;
      counts.set(rule.rpc.name, number);
      return { rule, number };
    });
}

const methods = ["GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE"];

// OpenAPI 3.1 has no place for other methods, so they stand in an extension of the path.
function pathsOf(operations: readonly Operation[]): JsonObject {
  const paths: Record<string, JsonObject> = {};
  const places = new Set<string>();
  for (const { path, method, value } of operations.toSorted(compareOperations)) {
    const place = `${method} ${path}`;
    if (places.has(place)) {
      throw new Error(`Cannot describe the API: ${place} stands for two methods`);
    }
    places.add(place);
    const item = paths[path] ?? {};
    paths[path] = item;
    if (methods.includes(method)) {
      item[method.toLowerCase()] = value;
    } else {
      const others = (item["x-callora-operations"] ?? {}) as JsonObject;
      item["x-callora-operations"] = { ...others, [method]: value };
    }
  }
  return paths;
}

function compareOperations(a: Operation, b: Operation): number {
  const order = methods.indexOf(a.method) - methods.indexOf(b.method);
  return compare(a.path, b.path) || order || compare(a.method, b.method);
}

// Not localeCompare: the order must not depend on the machine.
function compare(a: string, b: string): number {
  return a === b ? 0 : a < b ? -1 : 1;
}

function reachable(roots: readonly DescMessage[]): Set<DescMessage> {
  const found = new Set<DescMessage>();
  const add = (desc: DescMessage) => {
    if (found.has(desc)) {
      return;
    }
    found.add(desc);
    for (const { message } of desc.fields) {
      if (message !== undefined) {
        add(message);
      }
    }
  };
  roots.forEach(add);
  return found;
}

const problemSchema: JsonObject = {
  type: "object",
  description: "An error as RFC 9457 has it. Sent when the `Accept` header asks for it.",
  properties: {
    type: { type: "string", format: "uri-reference" },
    title: { type: "string" },
    status: { type: "integer", format: "int32", description: "The HTTP status." },
    detail: { type: "string" },
    instance: { type: "string", format: "uri-reference" },
    code: { type: "string", description: "The name of the code, for example `NOT_FOUND`." },
    details: { type: "array", items: { type: "object", additionalProperties: true } },
  },
};

const securitySchemes: JsonObject = {
  bearerAuth: {
    type: "http",
    scheme: "bearer",
    description: "A session token, an API token or an API key.",
  },
  apiKeyHeader: { type: "apiKey", in: "header", name: "X-API-Key", description: "An API key." },
};
