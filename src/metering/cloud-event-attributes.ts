import { fromJson, type MessageInitShape } from "@bufbuild/protobuf";
import { TimestampSchema } from "@bufbuild/protobuf/wkt";
import type { CloudEvent } from "cloudevents";
import type { UsageEventSchema } from "../../gen/callora/metering/v1/metering_service_pb.ts";
import { isNumberLiteral } from "../lib/exact-json.ts";
import type { Violation } from "../rpc/errors.ts";

/** One event: what it says of a use, or what is wrong with it, by the names of CloudEvents. */
export type ReadEvent =
  | { event: MessageInitShape<typeof UsageEventSchema> }
  | { violations: Violation[] };

/** The attributes that the fields of a usage event come from. */
export const attributeOf: Readonly<Record<string, string>> = {
  account_id: "subject",
  api_id: "apiid",
  status_code: "statuscode",
  test: "testmode",
};

/** The attributes of an event, extensions among them. */
export type Attributes = Readonly<Record<string, unknown>>;

/** Throws ValidationError when the attributes are none of an event. */
export type Check = (attributes: Attributes) => CloudEvent<unknown>;

/** The use of an API that an event tells of, or what is wrong with the event. */
export function toUsageEvent(attributes: Attributes, data: unknown, check: Check): ReadEvent {
  const violations = [...checkAttributes(attributes, check)];
  const { id, source, type, subject = "", apiid = "", time, endpoint = type } = attributes;
  if (attributes.endpoint === undefined && String(type).length > endpointLengthMax) {
    const description = `must be up to ${endpointLengthMax} characters, where it is the endpoint`;
    violations.push({ field: "type", description });
  }
  const statusCode = readWhole(attributes.statuscode, 999_999_999n);
  const units = readWhole(attributes.units, 10n ** 15n);
  const test = readBoolean(attributes.testmode);
  if (statusCode === undefined) {
    violations.push({ field: "statuscode", description: "must be a whole number" });
  }
  if (units === undefined) {
    violations.push({ field: "units", description: "must be a whole number" });
  }
  if (test === undefined) {
    violations.push({ field: "testmode", description: "must be true or false" });
  }
  if (data !== undefined && data !== null && !isObject(data)) {
    violations.push({ field: "data", description: "must be a JSON object" });
  }
  const timestamp = typeof time === "string" ? readTime(time) : undefined;
  if (time !== undefined && timestamp === undefined) {
    violations.push({ field: "time", description: "must be a time of RFC 3339" });
  }
  if (violations.length > 0 || statusCode === undefined || units === undefined) {
    return { violations: firstOfEachField(violations) };
  }
  return {
    event: {
      source: String(source),
      id: String(id),
      accountId: String(subject),
      apiId: String(apiid),
      endpoint: String(endpoint),
      statusCode: Number(statusCode),
      units,
      test: test === true,
      data: isObject(data) ? JSON.stringify(data) : "",
      ...(timestamp === undefined ? {} : { time: timestamp }),
    },
  };
}

const required = ["id", "source", "type", "specversion"] as const;
const attributeLengthMax = 2_000;
/** As the contract says. */
const endpointLengthMax = 200;

/**
 * What the SDK says of the attributes. What it would fill in itself (an id that is missing), or does not look at
 * (another version), is refused before.
 */
function checkAttributes(attributes: Attributes, check: Check): Violation[] {
  const missing = required.filter(
    (name) => typeof attributes[name] !== "string" || attributes[name] === "",
  );
  if (missing.length > 0) {
    return missing.map((field) => ({ field, description: "must be a text that is not empty" }));
  }
  if (attributes.specversion !== "1.0") {
    return [{ field: "specversion", description: "must be 1.0" }];
  }
  for (const [field, value] of Object.entries(attributes)) {
    if (typeof value === "string" && value.length > attributeLengthMax) {
      return [{ field, description: `must not be longer than ${attributeLengthMax} characters` }];
    }
    if (typeof value === "object") {
      return [{ field, description: "must be a text, a whole number, or true or false" }];
    }
  }
  // The SDK has a function of that name at its events.
  const { validate: _, ...known } = attributes;
  try {
    check(known);
    return [];
  } catch (error) {
    return explain(error);
  }
}

/** The errors of the SDK's JSON Schema name the attribute; its others say it in their first line. */
function explain(error: unknown): Violation[] {
  const list = isObject(error) && Array.isArray(error.errors) ? error.errors : [];
  const named = list.flatMap((one: unknown) =>
    isObject(one) && typeof one.instancePath === "string" && typeof one.message === "string"
      ? [{ field: one.instancePath.replace(/^\//, ""), description: one.message }]
      : [],
  );
  if (named.length > 0) {
    return named;
  }
  const [line = ""] = error instanceof Error ? error.message.split("\n") : [];
  return [{ field: "", description: line.slice(0, 200) || "is no event of CloudEvents 1.0" }];
}

function firstOfEachField(violations: readonly Violation[]): Violation[] {
  const first = new Map<string, Violation>();
  for (const violation of violations) {
    if (!first.has(violation.field)) {
      first.set(violation.field, violation);
    }
  }
  return [...first.values()];
}

/** A whole number from zero, as a number or as a text. Zero when it is absent; undefined when it is none. */
function readWhole(value: unknown, max: bigint): bigint | undefined {
  if (value === undefined) {
    return 0n;
  }
  const text = typeof value === "number" || typeof value === "string" ? String(value) : "";
  const whole = /^\d{1,18}$/.test(text) ? BigInt(text) : undefined;
  return whole !== undefined && whole <= max ? whole : undefined;
}

function readBoolean(value: unknown): boolean | undefined {
  const known = new Map<unknown, boolean>([
    [undefined, false],
    [true, true],
    [false, false],
    ["true", true],
    ["false", false],
  ]);
  return known.get(value);
}

/** With all its digits, which a Date would not keep. */
function readTime(text: string) {
  try {
    return fromJson(TimestampSchema, text.toUpperCase());
  } catch {
    return undefined;
  }
}

/** Whether a value is a JSON object. */
export function isObject(value: unknown): value is Record<string, unknown> {
  return (
    typeof value === "object" && value !== null && !Array.isArray(value) && !isNumberLiteral(value)
  );
}
