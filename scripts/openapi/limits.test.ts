import { create, type JsonObject, type MessageInitShape } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { FieldRulesSchema } from "../../gen/buf/validate/validate_pb.ts";
import { ModeSchema } from "../../gen/callora/keys/v1/key_pb.ts";
import { limitsOf } from "./limits.ts";

type Type = NonNullable<MessageInitShape<typeof FieldRulesSchema>["type"]>;

function limits(type: Type) {
  return limitsOf(create(FieldRulesSchema, { type }), ModeSchema);
}

test.for<[string, Type, JsonObject]>([
  ["len", { case: "string", value: { len: 3n } }, { minLength: 3, maxLength: 3 }],
  ["max_len 0", { case: "string", value: { maxLen: 0n } }, { maxLength: 0 }],
  ["min_len 0", { case: "string", value: { minLen: 0n } }, {}],
  [
    "prefix and suffix",
    { case: "string", value: { prefix: "a.", suffix: "b" } },
    { pattern: "^a\\..*b$" },
  ],
  ["not_in", { case: "string", value: { notIn: ["a"] } }, { not: { enum: ["a"] } }],
  ["const", { case: "string", value: { const: "" } }, { const: "" }],
  [
    "uri_ref",
    { case: "string", value: { wellKnown: { case: "uriRef", value: true } } },
    { format: "uri-reference" },
  ],
  [
    "gt and lt",
    {
      case: "int32",
      value: { greaterThan: { case: "gt", value: 0 }, lessThan: { case: "lt", value: 9 } },
    },
    { exclusiveMinimum: 0, exclusiveMaximum: 9 },
  ],
  [
    "gte and lte",
    {
      case: "double",
      value: { greaterThan: { case: "gte", value: 0.5 }, lessThan: { case: "lte", value: 1 } },
    },
    { minimum: 0.5, maximum: 1 },
  ],
  [
    "bounds that allow what is outside",
    {
      case: "int32",
      value: { greaterThan: { case: "gt", value: 9 }, lessThan: { case: "lt", value: 0 } },
    },
    { anyOf: [{ exclusiveMaximum: 0 }, { exclusiveMinimum: 9 }] },
  ],
  ["int64 in", { case: "int64", value: { in: [1n, 2n] } }, { enum: ["1", "2"] }],
  ["bool const", { case: "bool", value: { const: true } }, { const: true }],
  ["enum in", { case: "enum", value: { in: [1] } }, { enum: ["MODE_LIVE"] }],
  ["enum not_in", { case: "enum", value: { notIn: [0] } }, { enum: ["MODE_LIVE", "MODE_TEST"] }],
  ["enum defined_only", { case: "enum", value: { definedOnly: true } }, {}],
])("%s has its keywords", ([, type, expected]) => {
  expect(limits(type)).toEqual({ keywords: expected, notes: [] });
});

test.for<[string, Type, string[]]>([
  [
    "int64",
    {
      case: "int64",
      value: { greaterThan: { case: "gte", value: -5n }, lessThan: { case: "lt", value: 5n } },
    },
    ["At least -5.", "Less than 5."],
  ],
  [
    "duration",
    { case: "duration", value: { lessThan: { case: "lte", value: { seconds: 90n } } } },
    ["At most 90s."],
  ],
  [
    "timestamp",
    {
      case: "timestamp",
      value: { lessThan: { case: "ltNow", value: true }, within: { seconds: 60n } },
    },
    ["Must lie in the past.", "Within 60s of now."],
  ],
  ["bytes", { case: "bytes", value: { maxLen: 32n } }, ["At most 32 bytes."]],
  [
    "a form without a format",
    { case: "string", value: { wellKnown: { case: "hostAndPort", value: true } } },
    ["Must be a valid hostAndPort."],
  ],
])("limits of %s are told in words", ([, type, notes]) => {
  expect(limits(type)).toEqual({ keywords: {}, notes });
});

test("a rule in CEL is told in its words", () => {
  const rules = create(FieldRulesSchema, { cel: [{ id: "even", message: "must be even" }] });

  expect(limitsOf(rules, undefined)).toEqual({ keywords: {}, notes: ["Rule: must be even."] });
});

test("zero passes a range whose rules skip zero", () => {
  const rules = create(FieldRulesSchema, {
    ignore: 1,
    type: { case: "int32", value: { greaterThan: { case: "gte", value: 10 } } },
  });

  expect(limitsOf(rules, undefined).keywords).toEqual({ anyOf: [{ const: 0 }, { minimum: 10 }] });
});
