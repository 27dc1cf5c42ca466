import { type DescEnum, type JsonObject, type JsonValue, toJson } from "@bufbuild/protobuf";
import {
  type Duration,
  DurationSchema,
  type Timestamp,
  TimestampSchema,
} from "@bufbuild/protobuf/wkt";
import type {
  BytesRules,
  DurationRules,
  EnumRules,
  FieldRules,
  StringRules,
  TimestampRules,
} from "../../gen/buf/validate/validate_pb.ts";

/** What rules say in JSON Schema, and in words where JSON Schema has none. */
export interface Limits {
  readonly keywords: JsonObject;
  readonly notes: readonly string[];
}

type Kind = FieldRules["type"];

/** Return what the rules of a single value (not of a list or a map) say. */
export function limitsOf(rules: FieldRules, desc: DescEnum | undefined): Limits {
  const { keywords, notes } = kindLimits(rules.type, desc);
  const messages = rules.cel.map((rule) => rule.message).filter((message) => message !== "");
  return {
    keywords: isZeroIgnored(rules) ? orZero(keywords) : keywords,
    notes: [...notes, ...messages.map((message) => `Rule: ${message}.`)],
  };
}

const isZeroIgnored = (rules: FieldRules) => rules.ignore === 1;
const none: Limits = { keywords: {}, notes: [] };

function kindLimits(type: Kind, desc: DescEnum | undefined): Limits {
  switch (type.case) {
    case "string":
      return stringLimits(type.value);
    case "bytes":
      return bytesLimits(type.value);
    case "enum":
      return desc === undefined ? none : { keywords: enumKeywords(type.value, desc), notes: [] };
    case "bool":
      return { keywords: set("const", constOf(type.value)), notes: [] };
    case "timestamp":
      return { keywords: {}, notes: timeNotes(type.value) };
    case "duration":
      return { keywords: {}, notes: durationNotes(type.value) };
    case "any":
    case "fieldMask":
      return { keywords: {}, notes: membersNote(type.value.in) };
    case "int64":
    case "uint64":
    case "sint64":
    case "fixed64":
    case "sfixed64":
      return longLimits(type.value);
    case "int32":
    case "uint32":
    case "sint32":
    case "fixed32":
    case "sfixed32":
    case "float":
    case "double":
      return {
        keywords: { ...rangeKeywords(type.value), ...memberKeywords(type.value) },
        notes: [],
      };
    default:
      return none;
  }
}

// Empty passes where the rules are skipped for the zero value, whatever they say.
function orZero(keywords: JsonObject): JsonObject {
  const { pattern, minLength: _, ...rest } = keywords;
  if (typeof pattern === "string") {
    return { ...rest, pattern: `^$|${pattern}` };
  }
  const isNumeric = "minimum" in rest || "exclusiveMinimum" in rest || "exclusiveMaximum" in rest;
  return isNumeric ? { anyOf: [{ const: 0 }, rest] } : rest;
}

const formats: Readonly<Record<string, JsonObject>> = {
  email: { format: "email" },
  hostname: { format: "hostname" },
  ip: { anyOf: [{ format: "ipv4" }, { format: "ipv6" }] },
  ipv4: { format: "ipv4" },
  ipv6: { format: "ipv6" },
  uri: { format: "uri" },
  uriRef: { format: "uri-reference" },
  uuid: { format: "uuid" },
  tuuid: { pattern: "^[0-9a-fA-F]{32}$" },
  ulid: { pattern: "^[0-7][0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{25}$" },
};

function stringLimits(rules: StringRules): Limits {
  const shape = rules.wellKnown.case;
  const known = shape === undefined ? {} : formats[shape];
  const min = rules.len > 0n ? rules.len : rules.minLen;
  const max = rules.len > 0n ? rules.len : own(rules, "maxLen");
  const pattern = own(rules, "pattern") ?? affixPattern(rules);
  return {
    keywords: {
      ...(min > 0n && { minLength: Number(min) }),
      ...(max !== undefined && { maxLength: Number(max) }),
      ...set("pattern", pattern),
      ...known,
      ...memberKeywords(rules),
    },
    notes: [
      ...(known === undefined ? [`Must be a valid ${shape}.`] : []),
      ...(rules.notContains === "" ? [] : [`Must not contain \`${rules.notContains}\`.`]),
      ...byteNotes(rules.minBytes, own(rules, "maxBytes")),
    ],
  };
}

function affixPattern(rules: StringRules): string | undefined {
  const parts = [
    rules.prefix && `^${escapePattern(rules.prefix)}`,
    rules.contains && escapePattern(rules.contains),
    rules.suffix && `${escapePattern(rules.suffix)}$`,
  ].filter((part) => part !== "");
  return parts.length === 0 ? undefined : parts.join(".*");
}

function escapePattern(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
}

function bytesLimits(rules: BytesRules): Limits {
  const isExact = rules.len > 0n;
  const min = isExact ? rules.len : rules.minLen;
  return { keywords: {}, notes: byteNotes(min, isExact ? rules.len : own(rules, "maxLen")) };
}

function byteNotes(min: bigint, max: bigint | undefined): string[] {
  return [
    ...(min > 0n ? [`At least ${min} bytes.`] : []),
    ...(max === undefined ? [] : [`At most ${max} bytes.`]),
  ];
}

function enumKeywords(rules: EnumRules, desc: DescEnum): JsonObject {
  const fixed = own(rules, "const");
  const allowed = fixed === undefined ? rules.in : [fixed];
  const isAllowed = (number: number) =>
    (allowed.length === 0 || allowed.includes(number)) && !rules.notIn.includes(number);
  const names = desc.values.filter(({ number }) => isAllowed(number)).map(({ name }) => name);
  return names.length === desc.values.length ? {} : { enum: names };
}

type Bound<Case, T> =
  | { readonly case: undefined; readonly value?: undefined }
  | { readonly case: Case; readonly value: T };

interface Range<T> {
  readonly lessThan: Bound<"lt" | "lte", T>;
  readonly greaterThan: Bound<"gt" | "gte", T>;
}

function rangeKeywords({ lessThan, greaterThan }: Range<number>): JsonObject {
  const upper = set(lessThan.case === "lt" ? "exclusiveMaximum" : "maximum", lessThan.value);
  const lower = set(greaterThan.case === "gt" ? "exclusiveMinimum" : "minimum", greaterThan.value);
  // Bounds the wrong way round allow what is outside of them.
  const isOutside =
    lessThan.value !== undefined &&
    greaterThan.value !== undefined &&
    lessThan.value < greaterThan.value;
  return isOutside ? { anyOf: [upper, lower] } : { ...lower, ...upper };
}

// A 64-bit integer is a string in JSON, to which JSON Schema's number limits do not apply.
function longLimits(rules: Range<bigint> & Members<bigint>): Limits {
  const { lessThan, greaterThan } = rules;
  const isNeverNegative = greaterThan.value !== undefined && greaterThan.value >= 0n;
  const isRange = lessThan.value === undefined || (greaterThan.value ?? -1n) <= lessThan.value;
  return {
    keywords: {
      ...(isNeverNegative && isRange && { pattern: "^[0-9]+$" }),
      ...memberKeywords(rules),
    },
    notes: rangeNotes(rules, String),
  };
}

function rangeNotes<T>({ lessThan, greaterThan }: Range<T>, show: (value: T) => string): string[] {
  const [more, less] = [greaterThan, lessThan];
  return [
    ...(more.value === undefined
      ? []
      : [`${more.case === "gt" ? "More than" : "At least"} ${show(more.value)}.`]),
    ...(less.value === undefined
      ? []
      : [`${less.case === "lt" ? "Less than" : "At most"} ${show(less.value)}.`]),
  ];
}

function timeNotes({ lessThan, greaterThan, within }: TimestampRules): string[] {
  const time = (value: Timestamp) => String(toJson(TimestampSchema, value));
  return [
    ...(greaterThan.case === "gtNow" ? ["Must lie in the future."] : []),
    ...(lessThan.case === "ltNow" ? ["Must lie in the past."] : []),
    ...(greaterThan.case === "gt" || greaterThan.case === "gte"
      ? [`Not before ${time(greaterThan.value)}.`]
      : []),
    ...(lessThan.case === "lt" || lessThan.case === "lte"
      ? [`Not after ${time(lessThan.value)}.`]
      : []),
    ...(within ? [`Within ${toJson(DurationSchema, within)} of now.`] : []),
  ];
}

function durationNotes(rules: DurationRules): string[] {
  return rangeNotes<Duration>(rules, (value) => String(toJson(DurationSchema, value)));
}

function membersNote(names: readonly string[]): string[] {
  return names.length === 0 ? [] : [`One of ${names.map((name) => `\`${name}\``).join(", ")}.`];
}

interface Members<T> {
  readonly in: readonly T[];
  readonly notIn: readonly T[];
  readonly const: T;
}

function memberKeywords<T extends string | number | bigint>(rules: Members<T>): JsonObject {
  const json = (value: T) => (typeof value === "bigint" ? String(value) : (value as JsonValue));
  const fixed = constOf(rules);
  return {
    ...(fixed !== undefined && { const: json(fixed) }),
    ...(rules.in.length > 0 && { enum: rules.in.map(json) }),
    ...(rules.notIn.length > 0 && { not: { enum: rules.notIn.map(json) } }),
  };
}

function constOf<T>(rules: { readonly const: T }): T | undefined {
  return own(rules, "const");
}

// The rules are proto2: a field that is not set shows its default through the prototype.
function own<T extends object, Key extends keyof T>(rules: T, key: Key): T[Key] | undefined {
  return Object.hasOwn(rules, key) ? rules[key] : undefined;
}

function set(key: string, value: JsonValue | undefined): JsonObject {
  return value === undefined ? {} : { [key]: value };
}
