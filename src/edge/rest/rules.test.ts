import {
  create,
  createFileRegistry,
  type DescFile,
  type DescService,
  type MessageInitShape,
  setExtension,
} from "@bufbuild/protobuf";
import {
  FileDescriptorProtoSchema,
  type MethodOptions,
  MethodOptionsSchema,
} from "@bufbuild/protobuf/wkt";
import { expect, test } from "vitest";
import { http } from "../../../gen/google/api/annotations_pb.ts";
import { HttpRuleSchema } from "../../../gen/google/api/http_pb.ts";
import {
  file_callora_test_v1_library_service,
  LibraryService,
} from "../../../test/gen/callora/test/v1/library_service_pb.ts";
import { nameOf } from "./field-path.ts";
import { createRouteTable } from "./route-table.ts";
import { type RestRule, restRoutes } from "./rules.ts";

function show({ method, template, rpc, body, responseBody, pathFields }: RestRule): string {
  const bodyText = typeof body === "object" ? body.name : (body ?? "-");
  const fields = pathFields.map(({ path }) => nameOf(path)).join(",");
  return [rpc.name, method, template.text, bodyText, responseBody?.name ?? "-", fields].join(" ");
}

test("restRoutes reads every binding of a service, in the order of the proto", () => {
  const lines = restRoutes(LibraryService).map(show);

  expect(lines).toEqual([
    "GetBook GET /v1/books/{id} - - id",
    "GetBook GET /v1/{name=shelves/*/books/*} - - name",
    "ListBooks GET /v1/books - - ",
    "ListBooks GET /v1/books:titles - titles ",
    "CreateBook POST /v1/books * book ",
    "UpdateBook PATCH /v1/books/{book.id} book - book.id",
    "UpdateBook PUT /v1/books/{book.id}/tags tags - book.id",
    "UpdateBook PUT /v1/books/{book.id}/labels labels - book.id",
    "UpdateBook PUT /v1/books/{book.id}/note note - book.id",
    "DeleteBook DELETE /v1/books/{id} - - id",
    "LendBook POST /v1/books/{id}:lend * - id",
    "GetFile GET /v1/files/{path=**} - file path",
    "PutFile PUT /v1/files/{path=**} file - path",
    "Echo GET /v1/echo - - ",
    "Echo POST /v1/echo * everything ",
    "Echo GET /v1/echo/{everything.int32_value}/{everything.time} - - everything.int32_value,everything.time",
    "Echo REPORT /v1/echo - - ",
    "Echo * /v1/echo:any - - ",
    "WatchBooks GET /v1/books:watch - - ",
    "ImportBooks POST /v1/books:import * - ",
  ]);
});

test("the routes of a service make a route table", () => {
  const table = createRouteTable(
    restRoutes(LibraryService).map((rule) => ({ ...rule, name: rule.rpc.name, value: rule })),
  );

  expect(table.match("POST", "/v1/books/7:lend")).toMatchObject({
    kind: "match",
    route: { value: { rpc: { name: "LendBook" } } },
    bindings: ["7"],
  });
});

// A service with one RPC, Try, from EchoRequest to EchoResponse, annotated with the rule.
function serviceWith(rule: MessageInitShape<typeof HttpRuleSchema>): DescService {
  const options: MethodOptions = create(MethodOptionsSchema);
  setExtension(options, http, create(HttpRuleSchema, rule));
  const file = create(FileDescriptorProtoSchema, {
    name: "try.proto",
    package: "try.v1",
    syntax: "proto3",
    dependency: ["callora/test/v1/library_service.proto"],
    service: [
      {
        name: "TryService",
        method: [
          {
            name: "Try",
            inputType: ".callora.test.v1.Everything",
            outputType: ".callora.test.v1.EchoResponse",
            options,
          },
        ],
      },
    ],
  });
  const known = new Map<string, DescFile>([
    ["callora/test/v1/library_service.proto", file_callora_test_v1_library_service],
  ]);
  const service = createFileRegistry(file, (name) => known.get(name)).getService(
    "try.v1.TryService",
  );
  if (service === undefined) {
    throw new Error("Cannot make test service: not in the registry");
  }
  return service;
}

function get(path: string): { pattern: { case: "get"; value: string } } {
  return { pattern: { case: "get", value: path } };
}

test.for([
  "bool_value",
  "string_value",
  "genre",
  "int64_value",
  "long_text",
  "bytes_value",
  "time",
  "span",
  "mask",
  "string_box",
  "text",
  "box",
  "renamed",
  "maybe",
  "child.child.int32_value",
  "nested.text",
])("a variable may be the field %s", (name) => {
  expect(restRoutes(serviceWith(get(`/v1/{${name}}`)))).toHaveLength(1);
});

test.for([
  ["/v1/{nothing}", 'variable "nothing" is not a known field of callora.test.v1.Everything'],
  ["/v1/{child.nothing}", 'variable "child.nothing" is not a known field'],
  ["/v1/{ints}", 'variable "ints" is repeated'],
  ["/v1/{counts}", 'variable "counts" cannot be set from text'],
  ["/v1/{counts.x}", 'variable "counts.x" is not a known field'],
  ["/v1/{child}", 'variable "child" cannot be set from text'],
  ["/v1/{children.text}", 'variable "children.text" is not a known field'],
  ["/v1/{struct}", 'variable "struct" cannot be set from text'],
  ["/v1/{any}", 'variable "any" cannot be set from text'],
  ["/v1/{value}", 'variable "value" cannot be set from text'],
  ["/v1/{empty}", 'variable "empty" cannot be set from text'],
  ["/v1/{time.seconds}", 'variable "time.seconds" is not a known field'],
  ["/v1/{string_box.value}", 'variable "string_box.value" is not a known field'],
  ["/v1/{text.x}", 'variable "text.x" is not a known field'],
  [`/v1/{${"child.".repeat(40)}text}`, "has more than 32 parts"],
  ["/v1/{", "expected a field name (at 5)"],
  ["", 'expected "/" (at 0)'],
] as const)("%s stops the start, naming RPC, template and reason", ([path, reason]) => {
  const attempt = () => restRoutes(serviceWith(get(path)));

  expect(attempt).toThrow(`Cannot map try.v1.TryService.Try to "${path}": `);
  expect(attempt).toThrow(reason);
});

test.for([
  [
    { ...get("/v1"), body: "nothing" },
    'body "nothing" is not a field of callora.test.v1.Everything',
  ],
  [{ ...get("/v1"), body: "child.text" }, 'body "child.text" is not a field'],
  [{ ...get("/v1"), responseBody: "nothing" }, 'response_body "nothing" is not a field'],
  [{ ...get("/v1"), responseBody: "*" }, 'response_body "*" is not a field'],
  [{ ...get("/v1"), responseBody: "text" }, "is not a field of callora.test.v1.EchoResponse"],
  [{ body: "*" }, "it has no path"],
  [{ ...get("/v1"), additionalBindings: [{ body: "*" }] }, "it has no path"],
  [
    {
      ...get("/v1"),
      additionalBindings: [{ ...get("/v2"), additionalBindings: [get("/v3")] }],
    },
    'Cannot map try.v1.TryService.Try to "/v2": an additional binding cannot have additional',
  ],
  [
    { pattern: { case: "custom", value: { kind: "A B", path: "/v1" } } },
    '"A B" is not an HTTP method',
  ],
  [{ pattern: { case: "custom", value: { kind: "", path: "/v1" } } }, '"" is not an HTTP method'],
  [{ pattern: { case: "custom", value: { kind: "X", path: "v1" } } }, 'expected "/"'],
] satisfies [MessageInitShape<typeof HttpRuleSchema>, string][])(
  "a rule that cannot work stops the start: %#",
  ([rule, reason]) => {
    expect(() => restRoutes(serviceWith(rule))).toThrow(reason);
  },
);
