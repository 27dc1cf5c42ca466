import { STATUS_CODES } from "node:http";
import type { DescField, DescMessage, DescMethod, JsonObject } from "@bufbuild/protobuf";
import type { RestRule } from "../../src/edge/rest/rules.ts";
import { commentOf, joinTexts, splitSummary } from "./comments.ts";
import type { AccessName, Contract, PolicyText } from "./contract.ts";
import {
  errorResponses,
  idempotencyParameters,
  notModifiedResponses,
  successHeaders,
  validatorParameters,
} from "./headers.ts";
import { describePath, queryParameters } from "./parameters.ts";
import { binarySchema, type SchemaWriter } from "./schema.ts";

/** One operation and where it stands. */
export interface Operation {
  readonly path: string;
  /** The HTTP method in capitals, or "*". */
  readonly method: string;
  readonly value: JsonObject;
}

/** Describe one binding of an RPC. The number counts its bindings from 1. */
export function describeOperation(
  { rule, number }: { rule: RestRule; number: number },
  contract: Contract,
  schemas: SchemaWriter,
): Operation {
  const { rpc } = rule;
  const policy = contract.policyOf(rpc);
  const { path, parameters: inPath } = describePath(rule, schemas);
  const parameters = [
    ...inPath,
    ...queryParameters(rule, contract, schemas),
    ...idempotencyParameters(rpc, rule.method),
    ...validatorParameters(policy),
  ];
  const suffix = number === 1 ? "" : `_${number}`;
  const value: JsonObject = {
    tags: [rpc.parent.name],
    ...describeWords(rpc, policy),
    operationId: `${rpc.parent.name}_${rpc.name}${suffix}`,
    ...(rpc.proto.options?.deprecated === true && { deprecated: true }),
    ...(parameters.length > 0 && { parameters }),
    ...requestBody(rule, contract, schemas),
    responses: {
      [policy?.successStatus ?? 200]: response(rule, policy, schemas),
      ...notModifiedResponses(policy),
      ...errorResponses(policy),
    },
    ...(policy && {
      security: security[policy.access].map((name) => ({ [name]: [] })),
      "x-callora-access": policy.access,
      "x-callora-rate-class": policy.rateClass,
    }),
  };
  return { path, method: rule.method, value };
}

// Any one of the credentials is enough.
const security = {
  UNSPECIFIED: [],
  PUBLIC: [],
  USER: ["bearerAuth"],
  DEVELOPER: ["bearerAuth"],
  ADMIN: ["bearerAuth"],
  SUPER_ADMIN: ["bearerAuth"],
  API_KEY: ["apiKeyHeader", "bearerAuth"],
  USER_OR_API_KEY: ["bearerAuth", "apiKeyHeader"],
  SERVICE: ["bearerAuth"],
  METRICS_KEY: ["bearerAuth"],
  CREDENTIAL: ["bearerAuth", "apiKeyHeader"],
} satisfies Record<AccessName, readonly string[]>;

function describeWords(rpc: DescMethod, policy: PolicyText | undefined): JsonObject {
  const { summary, rest } = splitSummary(commentOf(rpc));
  const terms = policy && `Access: ${policy.accessText}\n\nRate limit: ${policy.rateText}`;
  const description = joinTexts([rest, terms ?? ""], "\n\n");
  return {
    ...(summary !== "" && { summary }),
    ...(description !== "" && { description }),
  };
}

function requestBody(rule: RestRule, contract: Contract, schemas: SchemaWriter): JsonObject {
  const { body, rpc } = rule;
  if (body === undefined) {
    return {};
  }
  if (body === "*") {
    return wholeBody(rule, contract, schemas);
  }
  if (isHttpBody(body.message)) {
    return { requestBody: { content: { "*/*": { schema: binarySchema } } } };
  }
  const required = contract.requiredFields(rpc.input).has(body);
  const content = contentOf(rpc, "request", schemas.field(body));
  return { requestBody: { ...(required && { required }), content } };
}

function wholeBody(
  { rpc, pathFields }: RestRule,
  contract: Contract,
  schemas: SchemaWriter,
): JsonObject {
  const { input } = rpc;
  if (isHttpBody(input)) {
    return { requestBody: { content: { "*/*": { schema: binarySchema } } } };
  }
  const inPath = new Set<DescField>(
    pathFields.filter(({ path }) => path.length === 1).map(({ leaf }) => leaf),
  );
  const fields = input.fields.filter((field) => !inPath.has(field));
  if (fields.length === 0) {
    return {};
  }
  const required = [...contract.requiredFields(input)].some((field) => !inPath.has(field));
  const schema = inPath.size === 0 ? schemas.message(input) : schemas.messageWithout(input, inPath);
  return {
    requestBody: { ...(required && { required }), content: contentOf(rpc, "request", schema) },
  };
}

function response(
  { rpc, responseBody }: RestRule,
  policy: PolicyText | undefined,
  schemas: SchemaWriter,
): JsonObject {
  const description = STATUS_CODES[policy?.successStatus ?? 200] ?? "Success";
  const headers = successHeaders(policy);
  if (isHttpBody(responseBody?.message ?? rpc.output)) {
    return { description, headers, content: { "*/*": { schema: binarySchema } } };
  }
  const schema =
    responseBody === undefined ? schemas.message(rpc.output) : schemas.field(responseBody);
  return { description, headers, content: contentOf(rpc, "response", schema) };
}

// Each schema of a stream is that of one of its messages, but for the JSON array.
function contentOf(
  rpc: DescMethod,
  direction: "request" | "response",
  schema: JsonObject,
): JsonObject {
  if (direction === "request" && rpc.methodKind === "client_streaming") {
    return {
      "application/json": { schema: { type: "array", items: schema } },
      "application/x-ndjson": { schema },
    };
  }
  if (direction === "response" && rpc.methodKind === "server_streaming") {
    return {
      "application/x-ndjson": { schema },
      "text/event-stream": { schema },
      "application/json": { schema: { type: "array", items: schema } },
    };
  }
  return { "application/json": { schema } };
}

function isHttpBody(desc: DescMessage | undefined): boolean {
  return desc?.typeName === "google.api.HttpBody";
}
