import {
  type DescField,
  fromJson,
  type JsonObject,
  type JsonValue,
  toBinary,
} from "@bufbuild/protobuf";
import fc from "fast-check";
import { expect, test } from "vitest";
import {
  EverythingSchema,
  LibraryService,
} from "../../../test/gen/callora/test/v1/library_service_pb.ts";
import { decodeBody } from "./body.ts";
import { BindError, HttpError } from "./errors.ts";
import { negotiate, requireJson } from "./media-type.ts";
import { splitTarget } from "./path.ts";
import { bindQuery } from "./query.ts";
import { createRouteTable } from "./route-table.ts";
import { restRoutes } from "./rules.ts";
import { parseTemplate, type Segment, type Template, TemplateError } from "./template.ts";

// Text of whole code points, and often of the characters that paths and queries give a meaning.
const special = fc.constantFrom(..." :%&=+?#@!$'()*,;/\"\\{}[]<>|^`\t\n\u0000é漢😀");
const anyText = fc
  .array(fc.oneof({ weight: 2, arbitrary: special }, fc.string({ unit: "binary", maxLength: 3 })), {
    maxLength: 6,
  })
  .map((parts) => parts.join("").toWellFormed());

// http.proto: one segment keeps [-_.~0-9A-Za-z], several keep "/" as well.
function expand(template: Template, values: readonly string[]): string {
  const steps = template.segments.map((one) =>
    one.kind === "literal" ? encodeURIComponent(one.value) : "x",
  );
  const parts: string[] = [];
  let index = 0;
  for (const [at, { start, end, multiSegment }] of template.variables.entries()) {
    parts.push(...steps.slice(index, start));
    const value = values[at] ?? "";
    const keep = multiSegment ? /[^-_.~/0-9A-Za-z]/gu : /[^-_.~0-9A-Za-z]/gu;
    parts.push(...(multiSegment && value === "" ? [] : [value.replace(keep, percentEncode)]));
    index = end;
  }
  parts.push(...steps.slice(index));
  const verb = template.verb?.split(":").map((part) => `:${encodeURIComponent(part)}`) ?? [];
  return `/${parts.join("/")}${verb.join("")}`;
}

function percentEncode(character: string): string {
  return Array.from(new TextEncoder().encode(character), (byte) => {
    return `%${byte.toString(16).padStart(2, "0").toUpperCase()}`;
  }).join("");
}

// "%2F" as text cannot be told from an escape that stays as sent: no segment of several holds it.
const oneOfSeveral = anyText.map((text) => `${text.replaceAll("/", "").replaceAll(/%2f/gi, "")}x`);
const single = anyText.map((text) => `${text}x`);

function valuesFor({ segments, variables }: Template): fc.Arbitrary<string[]> {
  return fc.tuple(
    ...variables.map(({ start, end, multiSegment }) => {
      const parts = segments.slice(start, end).map((segment) => textsFor(segment, multiSegment));
      return fc.tuple(...parts).map((lists) => lists.flat().join("/"));
    }),
  );
}

function textsFor({ kind, ...rest }: Segment, isOneOfSeveral: boolean): fc.Arbitrary<string[]> {
  if (kind === "doubleStar") {
    return fc.array(oneOfSeveral, { maxLength: 3 });
  }
  const text = isOneOfSeveral ? oneOfSeveral : single;
  return ("value" in rest ? fc.constant(rest.value) : text).map((one) => [one]);
}

test.for([
  "/v1/{id}",
  "/v1/{a}/{b.c}/x/{d}",
  "/v1/{id}:go",
  "/v1/{id}:go:on",
  "/v1/{id}:%2C",
  "/v1/{name=shelves/*/books/*}",
  "/v1/{name=shelves/*}/books/{id}:go",
  "/{path=**}",
  "/v1/{path=**}",
  "/v1/{path=**}:go",
  "/v1/{path=a/**}/end",
  "/v1/{id}/{path=**/c}",
  "/caf%C3%A9/{id}/*",
  "/v1/a%2Fb/{id}",
])("what a client expands into %s, matching gives back", (text) => {
  const template = parseTemplate(text);
  const table = createRouteTable([{ method: "GET", template, name: text, value: 1 }]);

  fc.assert(
    fc.property(valuesFor(template), (values) => {
      const match = table.match("GET", expand(template, values));

      expect(match).toMatchObject({ kind: "match", bindings: values });
    }),
    { numRuns: 200 },
  );
});

const whole = (bits: number) =>
  fc.bigInt({ min: -(2n ** BigInt(bits)), max: 2n ** BigInt(bits) - 1n });
const natural = (bits: number) => fc.bigInt({ min: 0n, max: 2n ** BigInt(bits) - 1n });
const floating = fc
  .oneof(fc.double(), fc.constantFrom(1e300, 5e-324))
  .map((value): JsonValue => (Number.isFinite(value) ? value : String(value)));
const bytes = fc.uint8Array({ maxLength: 9 }).map((data) => Buffer.from(data).toString("base64"));
const time = fc
  .date({ min: new Date("0001-01-01T00:00:00Z"), max: new Date("9999-12-31T23:59:59Z") })
  .filter((date) => !Number.isNaN(date.getTime()))
  .map((date) => date.toISOString());

/** Fields that text can fill, each with values in their JSON form. */
const textFields: Record<string, fc.Arbitrary<JsonValue>> = {
  int32Value: whole(31).map(Number),
  uint32Value: natural(32).map(Number),
  int64Value: whole(63).map(String),
  uint64Value: natural(64).map(String),
  sint64Value: whole(63).map(String),
  fixed64Value: natural(64).map(String),
  sfixed32Value: whole(31).map(Number),
  longText: whole(63).map(String),
  maybe: fc.integer({ min: 0, max: 2 }),
  int64Box: whole(63).map(String),
  boolValue: fc.boolean(),
  doubleValue: floating,
  floatValue: fc
    .float()
    .map((value): JsonValue => (Number.isFinite(value) ? value : String(value))),
  stringValue: anyText,
  bytesValue: bytes,
  genre: fc.constantFrom<JsonValue>("GENRE_NOVEL", "GENRE_POEM", 9, -1),
  otherName: anyText,
  time,
  span: fc
    .tuple(fc.boolean(), fc.integer({ min: 0, max: 1e6 }), fc.integer({ min: 1, max: 9 }))
    .map(([isNegative, seconds, tenths]) => `${isNegative ? "-" : ""}${seconds}.${tenths}s`),
  mask: fc.constantFrom("", "a", "displayName", "a.bC,d"),
  boolBox: fc.boolean(),
  stringBox: anyText,
  doubleBox: floating,
  bytesBox: bytes,
  ints: fc.array(whole(31).map(Number), { maxLength: 4 }),
  longs: fc.array(whole(63).map(String), { maxLength: 4 }),
  strings: fc.array(anyText, { maxLength: 4 }),
  times: fc.array(time, { maxLength: 3 }),
  boxes: fc.array(anyText, { maxLength: 3 }),
  blobs: fc.array(bytes, { maxLength: 3 }),
};

const choice = fc.constantFrom("text", "box", "number", "nested", "none");

function messages(depth: number): fc.Arbitrary<JsonObject> {
  const flat = fc.record(textFields, { requiredKeys: [] });
  const inner =
    depth === 0 ? fc.constant(undefined) : fc.option(messages(depth - 1), { nil: undefined });
  return fc
    .tuple(flat, choice, anyText, inner, inner)
    .map(([own, chosen, text, nested, child]) => ({
      ...own,
      ...((chosen === "text" || chosen === "box") && { [chosen]: text }),
      ...(chosen === "number" && { number: text.length }),
      // A message is only there if one of its fields is sent.
      ...(chosen === "nested" && nested !== undefined && { nested: { maybe: 1, ...nested } }),
      ...(child !== undefined && { child: { maybe: 1, ...child } }),
    }));
}

/** The message as keys and values; each part of a key in the JSON spelling, or in the proto's. */
function flatten(json: JsonObject, spelling: "name" | "jsonName", prefix = ""): [string, string][] {
  return Object.entries(json).flatMap(([jsonName, value]): [string, string][] => {
    const field = EverythingSchema.fields.find((one) => one.jsonName === jsonName) as DescField;
    const key = prefix + field[spelling];
    if (Array.isArray(value)) {
      return value.map((item) => [key, textOf(item)]);
    }
    return typeof value === "object" && value !== null
      ? flatten(value, spelling, `${key}.`)
      : [[key, textOf(value)]];
  });
}

function textOf(value: JsonValue): string {
  return Object.is(value, -0) ? "-0" : String(value);
}

test("what a client writes into a query, binding gives back", () => {
  fc.assert(
    fc.property(
      messages(2),
      fc.constantFrom("name", "jsonName"),
      fc.boolean(),
      (json, spelling, isForm) => {
        const pairs = flatten(json, spelling);
        const encoded = pairs.map((pair) => pair.map(encodeURIComponent).join("=")).join("&");
        const query = isForm ? new URLSearchParams(pairs).toString() : encoded;

        const bound = bindQuery(EverythingSchema, query);

        const sent = fromJson(EverythingSchema, json);
        expect(toBinary(EverythingSchema, bound)).toEqual(toBinary(EverythingSchema, sent));
      },
    ),
    { numRuns: 500 },
  );
});

/** Garbage made of what a parser looks for, and of anything. */
function garbage(pieces: readonly string[], maxLength = 12): fc.Arbitrary<string> {
  const piece = fc.oneof(
    { weight: 6, arbitrary: fc.constantFrom(...pieces) },
    fc.string({ unit: "binary", maxLength: 4 }),
  );
  return fc.array(piece, { maxLength }).map((parts) => parts.join(""));
}

/** What is thrown must be of the given class. Returns whether something was. */
function throwsOnly(run: () => unknown, allowed: new (...values: never[]) => Error): boolean {
  try {
    run();
    return false;
  } catch (error) {
    expect(error).toBeInstanceOf(allowed);
    return true;
  }
}

// Garbage that is always refused, or never, tests nothing.
function expectMixed(outcomes: readonly boolean[]): void {
  expect(new Set(outcomes)).toEqual(new Set([true, false]));
}

const pathPieces = [
  ...["/", "/", "/", "/v1", "/books", "/files/", "{id}", "{name=", "shelves", "*", "**", "}", "{"],
  ...["=", ":", ":lend", "//", "%", "%2F", "%2f", "%zz", "%ff", "%C3%A9", "%00", "http://", ".."],
];
const runs = { numRuns: 2000 };

test("garbage for a template throws nothing but a TemplateError", () => {
  const outcomes: boolean[] = [];
  const start = fc.constantFrom("/", "/v1/", "/v1/{x", "");
  fc.assert(
    fc.property(start, garbage(pathPieces), (head, rest) => {
      outcomes.push(throwsOnly(() => parseTemplate(head + rest), TemplateError));
    }),
    runs,
  );

  expectMixed(outcomes);
});

test("garbage for a method and a path throws nothing, and is answered in every way", () => {
  const table = createRouteTable(
    restRoutes(LibraryService).map((rule) => ({ ...rule, name: rule.rpc.name, value: rule })),
  );
  const kinds = new Set<string>();
  const methods = fc.oneof(fc.constantFrom("GET", "POST", "HEAD", "PUT"), fc.string());
  const start = fc.constantFrom("/", "/v1/", "/v1/books/", "/v1/files/", "");
  fc.assert(
    fc.property(methods, start, garbage(pathPieces), (method, head, rest) => {
      const { path } = splitTarget(head + rest);
      kinds.add(table.match(method, head + rest).kind);
      kinds.add(table.match(method, path).kind);
    }),
    runs,
  );

  expect([...kinds].sort()).toEqual(["badPath", "match", "methodNotAllowed", "notFound"]);
});

test("garbage for a query throws nothing but a BindError", () => {
  const keys = EverythingSchema.fields.flatMap((field) => [field.name, field.jsonName]);
  const values = ["1", "-1", "true", "x", "null", "NaN", "2026-01-01T00:00:00Z", "1s", "YQ=="];
  const pieces = [...keys, ...values, ...".&&&===+[]", "%", "%2", "%ff", "%C3%A9", "__proto__"];
  const outcomes: boolean[] = [];
  fc.assert(
    fc.property(
      fc.constantFrom(...keys),
      fc.constantFrom(...values),
      garbage(pieces),
      (key, value, rest) => {
        const query = `${key}=${value}${rest}`;
        outcomes.push(throwsOnly(() => bindQuery(EverythingSchema, query), BindError));
      },
    ),
    runs,
  );

  expectMixed(outcomes);
});

test("garbage for a body throws nothing but a BindError", () => {
  const names = EverythingSchema.fields.map(({ jsonName }) => jsonName);
  const tokens = [...names.map((name) => `"${name}":`), ..."{}[],", "1", '"x"', "null", "1e999"];
  const bodies = fc.oneof(
    garbage(tokens).map((text) => Buffer.from(text)),
    fc
      .tuple(fc.constantFrom(...names), fc.jsonValue())
      .map(([name, value]) => Buffer.from(JSON.stringify({ [name]: value }))),
    fc.jsonValue().map((value) => Buffer.from(JSON.stringify(value))),
    fc.uint8Array({ maxLength: 20 }),
  );
  const fields = fc.constantFrom<"*" | DescField | undefined>(
    ...(["*", "*", "*", undefined] as const),
    ...EverythingSchema.fields,
  );
  const outcomes: boolean[] = [];
  fc.assert(
    fc.property(bodies, fields, (body, field) => {
      outcomes.push(throwsOnly(() => decodeBody(EverythingSchema, field, body), BindError));
    }),
    runs,
  );

  expectMixed(outcomes);
});

test("garbage for Content-Type and Accept throws nothing but an HttpError", () => {
  const pieces = [
    "application/json",
    "*/*",
    ";",
    ",",
    "q=0.5",
    "charset=",
    '"',
    "\\",
    "utf-8",
    " ",
  ];
  const outcomes: boolean[] = [];
  fc.assert(
    fc.property(garbage(pieces), (header) => {
      outcomes.push(throwsOnly(() => requireJson(header), HttpError));
      expect(["json", "problem", "none"]).toContain(negotiate(header));
    }),
    runs,
  );

  expectMixed(outcomes);
});
