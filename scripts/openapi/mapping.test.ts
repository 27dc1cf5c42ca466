import type { JsonObject } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { at, buildImage, generate, isBeside, isProduct, operationsOf } from "./testing.ts";

const image = buildImage();
const names = image.file.map(({ name }) => name).filter(isBeside);
const contract: JsonObject = JSON.parse(generate(image, names.filter(isProduct)));
const withTests: JsonObject = JSON.parse(generate(image, names));

const operation = (path: string, method: string) => at(withTests, "paths", path, method);
const schema = (name: string) => at(withTests, "components", "schemas", `callora.${name}`);
const everything = (name: string) => schema("test.v1.Everything").properties?.[name as never];

function property(message: string, name: string): JsonObject {
  return at(schema(message), "properties", name);
}

function parameter(path: string, method: string, name: string): JsonObject {
  const parameters = operation(path, method).parameters as JsonObject[];
  return at(parameters.find((each) => each.name === name));
}

function bodySchema(path: string, method: string): JsonObject {
  const content = at(operation(path, method), "requestBody", "content");
  return at(content, "application/json", "schema");
}

test("every operation of the contract says who may call, as a policy does", () => {
  for (const { value } of operationsOf(contract)) {
    expect(value.security).toBeInstanceOf(Array);
    const isPublic = value["x-callora-access"] === "PUBLIC";
    expect((value.security as unknown[]).length === 0).toBe(isPublic);
    expect(value.description).toContain("Access: ");
    expect(value.description).toContain("Rate limit: ");
  }
  expect(operation("/api/v1/auth/login", "post").security).toEqual([]);
  expect(operation("/api/api-keys", "get").security).toEqual([{ bearerAuth: [] }]);
  expect(operation("/v1/credits/balance", "get")).toMatchObject({
    security: [{ bearerAuth: [] }, { apiKeyHeader: [] }],
    "x-callora-access": "USER_OR_API_KEY",
    "x-callora-rate-class": "V1",
  });
});

test("each binding is an operation of its own, with the success status of the policy", () => {
  expect(operation("/api/keys", "post").operationId).toBe("KeyService_CreateKey");
  expect(operation("/api/api-keys", "post").operationId).toBe("KeyService_CreateKey_2");
  for (const path of ["/api/keys", "/api/api-keys"]) {
    const statuses = Object.keys(at(operation(path, "post"), "responses"));
    expect(statuses).toEqual(["201", "429", "503", "default"]);
  }
});

test("a create takes Idempotency-Key, and nothing else does", () => {
  const takers = operationsOf(contract).filter(({ value }) =>
    (value.parameters as JsonObject[] | undefined)?.some(({ name }) => name === "Idempotency-Key"),
  );

  const places = takers.map(({ method, path }) => `${method} ${path}`);
  expect(places).toEqual(
    expect.arrayContaining(["post /api/keys", "post /api/api-keys", "post /api/apis"]),
  );
  expect(places.every((place) => place.startsWith("post "))).toBe(true);
  expect(places).not.toContain("post /api/v1/auth/login");
});

test("replies name their request; limited ones say their limits, and when to come again", () => {
  const headersOf = (path: string, method: string, status: string) =>
    Object.keys(at(operation(path, method), "responses", status, "headers"));
  const component = (name: string) =>
    Object.keys(at(contract, "components", "responses", name, "headers"));
  const limits = ["X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"];

  expect(headersOf("/api/keys", "post", "201")).toEqual(["X-Request-Id", ...limits]);
  expect(headersOf("/api/health", "get", "200")).toEqual(["X-Request-Id"]);
  expect(at(operation("/api/health", "get"), "responses")).not.toHaveProperty("429");
  expect(component("TooManyRequests")).toEqual(["X-Request-Id", ...limits, "Retry-After"]);
  expect(component("Unavailable")).toEqual(["X-Request-Id", "Retry-After"]);
});

test("methods that OpenAPI 3.1 lacks stand in an extension", () => {
  const others = at(withTests, "paths", "/v1/echo", "x-callora-operations");

  expect(others).toMatchObject({ REPORT: { operationId: "LibraryService_Echo_4" } });
});

test("a comment gives the summary, the description and the tag", () => {
  expect(operation("/api/keys", "post")).toMatchObject({
    tags: ["KeyService"],
    summary: "Create a key for a published API, or for all APIs",
    description: expect.stringMatching(/^The response carries the secret\. It is shown once/),
  });
  expect(withTests.tags).toContainEqual({
    name: "KeyService",
    description: "Manage the API keys that consumers present to the gateway.",
  });
});

test("a path variable keeps its pattern, and leaves the body", () => {
  expect(parameter("/api/apis/{api_id}", "put", "api_id").schema).toEqual({
    type: "string",
    pattern: "^api_[0-9a-v]{26}$",
  });
  expect(Object.keys(at(bodySchema("/api/apis/{api_id}", "put"), "properties"))).toEqual([
    "name",
    "description",
    "upstreamUrl",
    "callNanos",
    "category",
    "rule",
    "routes",
    "settings",
  ]);
  expect(operation("/api/apis/{api_id}/publish", "post")).not.toHaveProperty("requestBody");
});

test("a variable of several segments has a parameter for each wildcard", () => {
  const { parameters } = operation("/v1/shelves/{name_1}/books/{name_2}", "get");

  expect(parameters).toContainEqual({
    name: "name_2",
    in: "path",
    required: true,
    description: "A part of `name`, which is `shelves/*/books/*`.",
    schema: { type: "string", pattern: "^[^/]+$" },
  });
  expect(parameter("/v1/files/{path}", "get", "path").schema).toEqual({ type: "string" });
  expect(operation("/v1/books/{id}:lend", "post").operationId).toBe("LibraryService_LendBook");
});

test("the query holds what path and body leave, nested fields by dotted names", () => {
  const places = (path: string, method: string) =>
    (operation(path, method).parameters as JsonObject[]).map((each) => `${each.in} ${each.name}`);

  expect(places("/v1/books", "get")).toEqual([
    "query pageSize",
    "query pageToken",
    "query genres",
    "query filter.title",
    "query filter.year",
    "query filter.range.fromYear",
    "query filter.range.toYear",
    "query key",
  ]);
  expect(places("/v1/books/{book.id}", "patch")).toEqual([
    "path book.id",
    "query updateMask",
    "query tags",
    "query note",
  ]);
  expect(places("/api/audit-logs", "get")).toContain("query user_id");
  expect(parameter("/v1/books", "get", "genres").schema).toEqual({
    type: "array",
    items: { $ref: "#/components/schemas/callora.test.v1.Genre" },
  });
  expect(parameter("/v1/usage/event", "get", "source")).toMatchObject({ required: true });
  expect(parameter("/api/api-keys", "get", "pageSize")).not.toHaveProperty("required");
});

test("body and response_body pick a field, HttpBody is raw bytes", () => {
  expect(bodySchema("/v1/books/{book.id}", "patch").$ref).toMatch(/\.Book$/);
  expect(bodySchema("/v1/books/{book.id}/tags", "put")).toMatchObject({ type: "array" });
  expect(bodySchema("/v1/books", "post").$ref).toMatch(/\.CreateBookRequest$/);
  const reply = (path: string, method: string) =>
    at(operation(path, method), "responses", "200", "content");
  expect(reply("/v1/books", "post")).toMatchObject({
    "application/json": { schema: { $ref: expect.stringMatching(/\.Book$/) } },
  });
  expect(reply("/v1/books:titles", "get")).toMatchObject({
    "application/json": { schema: { type: "array", items: { type: "string" } } },
  });
  expect(reply("/v1/files/{path}", "get")).toEqual({
    "*/*": { schema: { type: "string", format: "binary" } },
  });
  expect(at(operation("/v1/files/{path}", "put"), "requestBody", "content")).toEqual({
    "*/*": { schema: { type: "string", format: "binary" } },
  });
});

test("streams have the media types of streams", () => {
  const out = at(operation("/v1/books:watch", "get"), "responses", "200", "content");
  const input = at(operation("/v1/books:import", "post"), "requestBody", "content");

  expect(Object.keys(out)).toEqual([
    "application/x-ndjson",
    "text/event-stream",
    "application/json",
  ]);
  expect(Object.keys(input)).toEqual(["application/json", "application/x-ndjson"]);
  expect(input["application/json"]).toMatchObject({ schema: { type: "array" } });
});

test("errors are google.rpc.Status, or a problem when asked for", () => {
  expect(at(withTests, "components", "responses", "Error", "content")).toEqual({
    "application/json": { schema: { $ref: "#/components/schemas/google.rpc.Status" } },
    "application/problem+json": { schema: { $ref: "#/components/schemas/Problem" } },
  });
});

const int64 = { type: "string", format: "int64", pattern: "^-?[0-9]+$" };
const uint64 = { type: "string", format: "uint64", pattern: "^[0-9]+$" };
const bytes = { type: "string", format: "byte", contentEncoding: "base64" };
const genre = { $ref: "#/components/schemas/callora.test.v1.Genre" };
const self = { $ref: "#/components/schemas/callora.test.v1.Everything" };

test.for<[string, JsonObject]>([
  ["boolValue", { type: "boolean" }],
  ["int32Value", { type: "integer", format: "int32" }],
  ["int64Value", int64],
  ["uint32Value", { type: "integer", format: "uint32", minimum: 0 }],
  ["uint64Value", uint64],
  ["sint64Value", int64],
  ["fixed64Value", uint64],
  ["floatValue", { type: "number", format: "float" }],
  ["doubleValue", { type: "number", format: "double" }],
  ["stringValue", { type: "string" }],
  ["bytesValue", bytes],
  ["genre", genre],
  ["nullValue", { type: "null" }],
  ["otherName", { type: "string" }],
  ["time", { type: "string", format: "date-time" }],
  ["int32Box", { type: ["integer", "null"], format: "int32" }],
  ["int64Box", { ...int64, type: ["string", "null"] }],
  ["struct", { type: "object", additionalProperties: true }],
  ["value", {}],
  ["list", { type: "array", items: {} }],
  ["empty", { type: "object" }],
  ["longs", { type: "array", items: int64 }],
  ["blobs", { type: "array", items: bytes }],
  ["children", { type: "array", items: self }],
  ["counts", { type: "object", additionalProperties: { type: "integer", format: "int32" } }],
  ["genresById", { type: "object", additionalProperties: genre }],
  ["child", self],
])("field %s is %o", ([name, expected]) => {
  expect(everything(name)).toEqual(expected);
});

test("members of a oneof say so, and none is required", () => {
  expect(everything("number")).toEqual({
    type: "integer",
    format: "int32",
    description: "At most one of `text`, `number`, `box`, `nested` is set.",
  });
  expect(schema("test.v1.Everything")).not.toHaveProperty("required");
  expect(everything("maybe")).toEqual({ type: "integer", format: "int32" });
});

test("limits of the contract become limits of the schema", () => {
  expect(property("catalog.v1.CreateApiRequest", "name")).toMatchObject({
    minLength: 1,
    maxLength: 100,
  });
  expect(property("catalog.v1.CreateApiRequest", "upstreamUrl")).toMatchObject({ format: "uri" });
  expect(property("keys.v1.CreateKeyRequest", "requestId")).toMatchObject({ format: "uuid" });
  expect(property("accounts.v1.CreateUserRequest", "email")).toMatchObject({ format: "email" });
  expect(property("metering.v1.UsageEvent", "statusCode")).toMatchObject({ maximum: 599 });
  expect(property("metering.v1.RecordUsageRequest", "events")).toMatchObject({
    minItems: 1,
    maxItems: 500,
  });
  expect(parameter("/api/developers/analytics", "get", "groupBy").schema).toMatchObject({
    enum: ["", "day", "week", "month"],
  });
});

test("limits of 64-bit integers are told in words, as they are strings", () => {
  expect(property("credits.v1.GrantCreditsRequest", "amountNanos")).toEqual({
    ...int64,
    pattern: "^[0-9]+$",
    description: expect.stringMatching(/More than 0\. At most 1000000000000000\.$/),
  });
});

test("a field that is refused when it is not set is required", () => {
  expect(schema("keys.v1.VerifyKeyRequest").required).toEqual(["secret"]);
  expect(schema("credits.v1.GrantCreditsRequest").required).toEqual(["accountId", "amountNanos"]);
  expect(schema("metering.v1.RecordUsageRequest").required).toEqual(["events"]);
});

test("empty passes the pattern of a field whose rules skip empty", () => {
  const { pattern } = parameter("/api/usage", "get", "apiId").schema as { pattern: string };

  expect("").toMatch(new RegExp(pattern));
  expect("api_00000000000000000000000000").toMatch(new RegExp(pattern));
  expect("key_1").not.toMatch(new RegExp(pattern));
});

test("a secret is shown once in a response and written only in a request", () => {
  const shown = property("keys.v1.CreateKeyResponse", "secret");
  const given = property("accounts.v1.CreateUserRequest", "password");

  expect(shown.description).toMatch(/Shown once\.$/);
  expect(shown).not.toHaveProperty("writeOnly");
  expect(given.writeOnly).toBe(true);
  expect(given.description).not.toContain("Shown once");
});

test("an enum keeps all its names and says what they mean", () => {
  expect(schema("keys.v1.Mode")).toEqual({
    type: "string",
    description: expect.stringContaining("- `MODE_LIVE`: Calls are charged and paid out."),
    enum: ["MODE_UNSPECIFIED", "MODE_LIVE", "MODE_TEST"],
  });
});
