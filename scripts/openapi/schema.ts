import {
  type DescEnum,
  type DescField,
  type DescMessage,
  type DescOneof,
  type JsonObject,
  ScalarType,
} from "@bufbuild/protobuf";
import { isWrapperDesc } from "@bufbuild/protobuf/wkt";
import type { FieldRules } from "../../gen/buf/validate/validate_pb.ts";
import { commentOf, joinTexts } from "./comments.ts";
import type { Contract } from "./contract.ts";
import { type Limits, limitsOf } from "./limits.ts";

/** Makes the schemas of values, and keeps those of the messages and enums that they refer to. */
export interface SchemaWriter {
  /** The schema of a field's value with its limits and words. */
  field(field: DescField): JsonObject;
  message(desc: DescMessage): JsonObject;
  /** A message without some of its fields, written in place. */
  messageWithout(desc: DescMessage, left: ReadonlySet<DescField>): JsonObject;
  /** Everything referred to so far, by name. */
  components(): JsonObject;
}

/**
 * Make a writer.
 *
 * @param responses The messages that callers receive: what is redacted in them is shown once.
 */
export function createSchemaWriter(
  contract: Contract,
  responses: ReadonlySet<DescMessage>,
): SchemaWriter {
  const components = new Map<string, JsonObject>();

  function refer<T extends DescMessage | DescEnum>(
    desc: T,
    write: (desc: T) => JsonObject,
  ): JsonObject {
    if (!components.has(desc.typeName)) {
      components.set(desc.typeName, {});
      components.set(desc.typeName, write(desc));
    }
    return { $ref: `#/components/schemas/${desc.typeName}` };
  }

  function message(desc: DescMessage): JsonObject {
    if (isWrapperDesc(desc)) {
      const { type, ...rest } = scalarSchema(desc.fields[0]?.scalar ?? ScalarType.STRING);
      return { ...rest, type: [type ?? "string", "null"] };
    }
    return wellKnown[desc.typeName] ?? refer(desc, () => messageWithout(desc, new Set()));
  }

  function messageWithout(desc: DescMessage, left: ReadonlySet<DescField>): JsonObject {
    const fields = desc.fields.filter((field) => !left.has(field));
    const required = contract.requiredFields(desc);
    const names = fields.filter((field) => required.has(field)).map(({ jsonName }) => jsonName);
    return {
      type: "object",
      ...describe(commentOf(desc)),
      ...(fields.length > 0 && { properties: propertiesOf(fields) }),
      ...(names.length > 0 && { required: names }),
    };
  }

  function propertiesOf(fields: readonly DescField[]): JsonObject {
    return Object.fromEntries(fields.map((each) => [each.jsonName, field(each)]));
  }

  function base(desc: DescField): JsonObject {
    if (desc.enum !== undefined) {
      return isNull(desc.enum) ? { type: "null" } : refer(desc.enum, enumSchema);
    }
    return desc.message === undefined ? scalarSchema(desc.scalar) : message(desc.message);
  }

  function field(desc: DescField): JsonObject {
    return fieldSchema(desc, { contract, responses, base });
  }

  return {
    field,
    message,
    messageWithout,
    components: () => Object.fromEntries([...components].sort(([a], [b]) => (a < b ? -1 : 1))),
  };
}

interface FieldDeps {
  readonly contract: Contract;
  readonly responses: ReadonlySet<DescMessage>;
  /** The schema of one value of the field, without its limits. */
  base(field: DescField): JsonObject;
}

function fieldSchema(desc: DescField, { contract, responses, base }: FieldDeps): JsonObject {
  const notes = desc.oneof === undefined ? [] : [oneofNote(desc.oneof, contract)];
  const single: WriteItem = (rules) => {
    const limits = rules && limitsOf(rules, desc.enum);
    notes.push(...(limits?.notes ?? []));
    return { ...base(desc), ...limits?.keywords };
  };
  const value = shapeSchema(desc, contract.rulesOf(desc), single);
  const redaction = redactionOf(desc, responses);
  return {
    ...value,
    ...redaction.keywords,
    ...(desc.proto.options?.deprecated === true && { deprecated: true }),
    ...describe(joinTexts([commentOf(desc), ...notes, ...redaction.notes])),
  };
}

function shapeSchema(
  desc: DescField,
  rules: FieldRules | undefined,
  single: WriteItem,
): JsonObject {
  switch (desc.fieldKind) {
    case "list":
      return listSchema(rules, single);
    case "map":
      return mapSchema(rules, single);
    default:
      return single(rules);
  }
}

function redactionOf(field: DescField, responses: ReadonlySet<DescMessage>): Limits {
  if (field.proto.options?.debugRedact !== true) {
    return { keywords: {}, notes: [] };
  }
  return responses.has(field.parent as DescMessage)
    ? { keywords: {}, notes: ["Shown once."] }
    : { keywords: { writeOnly: true }, notes: [] };
}

type WriteItem = (rules: FieldRules | undefined) => JsonObject;

function listSchema(rules: FieldRules | undefined, item: WriteItem): JsonObject {
  const list = rules?.type.case === "repeated" ? rules.type.value : undefined;
  const isEmptyAllowed = rules?.ignore === 1;
  return {
    type: "array",
    items: item(list?.items),
    ...(list && list.minItems > 0n && !isEmptyAllowed && { minItems: Number(list.minItems) }),
    ...(list && Object.hasOwn(list, "maxItems") && { maxItems: Number(list.maxItems) }),
    ...(list?.unique && { uniqueItems: true }),
  };
}

function mapSchema(rules: FieldRules | undefined, value: WriteItem): JsonObject {
  const map = rules?.type.case === "map" ? rules.type.value : undefined;
  const keys = map?.keys && limitsOf(map.keys, undefined).keywords;
  return {
    type: "object",
    ...(keys && Object.keys(keys).length > 0 && { propertyNames: keys }),
    additionalProperties: value(map?.values),
    ...(map && map.minPairs > 0n && { minProperties: Number(map.minPairs) }),
    ...(map && Object.hasOwn(map, "maxPairs") && { maxProperties: Number(map.maxPairs) }),
  };
}

/** A value of any media type. */
export const binarySchema: JsonObject = { type: "string", format: "binary" };

const wellKnown: Readonly<Record<string, JsonObject>> = {
  "google.api.HttpBody": binarySchema,
  "google.protobuf.Any": {
    type: "object",
    properties: { "@type": { type: "string", description: "The type of the message." } },
    required: ["@type"],
    additionalProperties: true,
  },
  "google.protobuf.Duration": {
    type: "string",
    pattern: "^-?[0-9]{1,12}(?:\\.[0-9]{1,9})?s$",
    examples: ["1.5s"],
  },
  "google.protobuf.Empty": { type: "object" },
  "google.protobuf.FieldMask": { type: "string", examples: ["displayName,author.birthYear"] },
  "google.protobuf.ListValue": { type: "array", items: {} },
  "google.protobuf.Struct": { type: "object", additionalProperties: true },
  "google.protobuf.Timestamp": { type: "string", format: "date-time" },
  "google.protobuf.Value": {},
};

/** The schema of a scalar as ProtoJSON writes it. */
function scalarSchema(scalar: ScalarType): JsonObject {
  switch (scalar) {
    case ScalarType.BOOL:
      return { type: "boolean" };
    case ScalarType.STRING:
      return { type: "string" };
    case ScalarType.BYTES:
      return { type: "string", format: "byte", contentEncoding: "base64" };
    case ScalarType.FLOAT:
      return { type: "number", format: "float" };
    case ScalarType.DOUBLE:
      return { type: "number", format: "double" };
    case ScalarType.INT32:
    case ScalarType.SINT32:
    case ScalarType.SFIXED32:
      return { type: "integer", format: "int32" };
    case ScalarType.UINT32:
    case ScalarType.FIXED32:
      return { type: "integer", format: "uint32", minimum: 0 };
    case ScalarType.INT64:
    case ScalarType.SINT64:
    case ScalarType.SFIXED64:
      return { type: "string", format: "int64", pattern: "^-?[0-9]+$" };
    case ScalarType.UINT64:
    case ScalarType.FIXED64:
      return { type: "string", format: "uint64", pattern: "^[0-9]+$" };
  }
}

function isNull(desc: DescEnum): boolean {
  return desc.typeName === "google.protobuf.NullValue";
}

function enumSchema(desc: DescEnum): JsonObject {
  return {
    type: "string",
    ...describe(joinTexts([commentOf(desc), valueList(desc)], "\n\n")),
    enum: desc.values.map(({ name }) => name),
  };
}

function oneofNote(oneof: DescOneof, contract: Contract): string {
  const names = oneof.fields.map(({ jsonName }) => `\`${jsonName}\``).join(", ");
  return `${contract.isOneofRequired(oneof) ? "Exactly" : "At most"} one of ${names} is set.`;
}

function valueList(desc: DescEnum): string {
  const values = desc.values.map((value) => ({ name: value.name, text: commentOf(value) }));
  return values
    .filter(({ text }) => text !== "")
    .map(({ name, text }) => `- \`${name}\`: ${text.replaceAll("\n", " ")}`)
    .join("\n");
}

function describe(description: string): JsonObject {
  return description === "" ? {} : { description };
}
