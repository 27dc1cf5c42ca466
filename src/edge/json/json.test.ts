import {
  create,
  fromJson,
  fromJsonString,
  type JsonObject,
  type JsonValue,
  toJson,
} from "@bufbuild/protobuf";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { EverythingSchema } from "../../../test/gen/callora/test/v1/library_service_pb.ts";
import { compileReader } from "./read.ts";
import { compileWriter } from "./write.ts";

const whole = (bits: number) =>
  fc.bigInt({ min: -(2n ** BigInt(bits)), max: 2n ** BigInt(bits) - 1n });
const natural = (bits: number) => fc.bigInt({ min: 0n, max: 2n ** BigInt(bits) - 1n });
const number = (bits: number) => whole(bits).map(Number);
const text = fc.oneof(fc.string(), fc.string({ unit: "binary" }), fc.constantFrom("", '"', "é\\"));
const finite = fc.double({ noNaN: true, noDefaultInfinity: true });
const genre = fc.constantFrom<JsonValue>("GENRE_NOVEL", "GENRE_POEM", 9, 0);

/** Fields of every kind, as JSON. Nearly all clients send no others. */
const usual: Record<string, fc.Arbitrary<JsonValue>> = {
  boolValue: fc.boolean(),
  int32Value: number(31),
  uint32Value: natural(32).map(Number),
  sfixed32Value: number(31),
  int64Value: fc.oneof(whole(49).map(Number), whole(59).map(String)),
  sint64Value: whole(59).map(String),
  doubleValue: finite,
  stringValue: fc.stringMatching(/^[ !#-[\]-~é漢]*$/),
  genre: fc.constantFrom<JsonValue>("GENRE_NOVEL", "GENRE_POEM"),
  otherName: fc.stringMatching(/^\w*$/),
  maybe: number(31),
  ints: fc.array(number(31), { maxLength: 3 }),
  longs: fc.array(whole(59).map(String), { maxLength: 3 }),
  strings: fc.array(fc.stringMatching(/^\w*$/), { maxLength: 3 }),
};

const rare: Record<string, fc.Arbitrary<JsonValue>> = {
  uint64Value: natural(64).map(String),
  floatValue: fc.float({ noNaN: true, noDefaultInfinity: true }),
  doubleValue: fc.constantFrom<JsonValue>("NaN", "Infinity", -0, "1e3"),
  stringValue: text,
  bytesValue: fc.uint8Array({ maxLength: 9 }).map((data) => Buffer.from(data).toString("base64")),
  genre,
  nullValue: fc.constant(null),
  longText: whole(63).map(String),
  time: fc.constantFrom("2026-01-01T00:00:00Z", "2026-01-01T00:00:00.123456789Z"),
  span: fc.constantFrom("1s", "-1.5s"),
  mask: fc.constantFrom("", "a,bC.d"),
  stringBox: text,
  int64Box: whole(63).map(String),
  struct: fc.dictionary(text, fc.constantFrom<JsonValue>(1, "x", null, [true])) as never,
  value: fc.jsonValue({ maxDepth: 1 }) as fc.Arbitrary<JsonValue>,
  list: fc.array(fc.constantFrom<JsonValue>(1, "x", null)),
  empty: fc.constant({}),
  strings: fc.array(text, { maxLength: 3 }),
  genres: fc.array(genre, { maxLength: 3 }),
  times: fc.array(fc.constant("2026-01-01T00:00:00Z"), { maxLength: 2 }),
  boxes: fc.array(text, { maxLength: 2 }),
  blobs: fc.array(fc.constantFrom("", "YQ=="), { maxLength: 2 }),
  counts: fc.dictionary(text, number(31), { maxKeys: 3 }),
  genresById: fc.dictionary(whole(60).map(String), genre, { maxKeys: 3 }),
};

function messages(depth: number, fields: typeof usual): fc.Arbitrary<JsonObject> {
  const own = fc.record(fields, { requiredKeys: [] }) as fc.Arbitrary<JsonObject>;
  if (depth === 0) {
    return own;
  }
  const inner = messages(depth - 1, fields);
  const extra: fc.Arbitrary<JsonObject>[] = [
    fc.record({ child: inner }),
    fc.record({ children: fc.array(inner, { maxLength: 2 }) }),
    fc.record({ nested: inner }),
    fc.record({ text: fc.constantFrom("", "x") }),
    fc.constant({}),
  ];
  return fc.tuple(own, fc.oneof(...extra)).map(([plain, more]) => ({ ...plain, ...more }));
}

const anyMessage = fc.oneof(messages(2, usual), messages(2, { ...usual, ...rare }));
const runs = { numRuns: 1000 };

describe("reading", () => {
  const read = compileReader(EverythingSchema);
  const bytes = (json: string) => Buffer.from(json);

  test("what clients usually send becomes the message that fromJson() makes of it", () => {
    fc.assert(
      fc.property(messages(2, usual), fc.constantFrom("", " "), (json, space) => {
        const sent = JSON.stringify(json, null, space).replaceAll("\n", space);

        expect(read(bytes(sent))).toStrictEqual(fromJson(EverythingSchema, JSON.parse(sent)));
      }),
      runs,
    );
  });

  test("all else is left alone, or becomes the same", () => {
    let left = 0;
    fc.assert(
      fc.property(anyMessage, (json) => {
        const sent = JSON.stringify(json);
        const message = read(bytes(sent));
        left += message === undefined ? 1 : 0;
        if (message !== undefined) {
          expect(message).toStrictEqual(fromJson(EverythingSchema, JSON.parse(sent)));
        }
      }),
      runs,
    );
    expect(left).toBeGreaterThan(0);
  });

  test("a message in a message is no deeper than a stack", () => {
    const deep = `${'{"child":'.repeat(10_000)}{}${"}".repeat(10_000)}`;

    expect(read(bytes(deep))).toBeUndefined();
    expect(read(bytes('{"child":{"child":{}}}'))).toBeDefined();
  });

  const names = EverythingSchema.fields.flatMap(({ name, jsonName }) => [name, jsonName]);
  const pieces = [
    ...names.map((name) => `"${name}":`),
    ...[
      "{",
      "}",
      "[",
      "]",
      ",",
      ",",
      " ",
      "1",
      "-1",
      "-0",
      "01",
      "1.5",
      "1e3",
      "1E400",
      ".5",
      "5.",
    ],
    ...['""', '"x"', '"7"', '"-7"', '"GENRE_NOVEL"', "true", "false", "null", "\\", "\n", '"'],
    ...["99999999999", "9007199254740993", '"9223372036854775808"', "NaN", "é", "\ud800", "1x"],
  ];
  const member = fc
    .tuple(fc.constantFrom(...names), fc.constantFrom(...pieces))
    .map(([name, value]) => `"${name}":${value}`);
  const garbage = fc.oneof(
    fc.array(fc.constantFrom(...pieces), { maxLength: 12 }).map((parts) => parts.join("")),
    fc.array(member, { maxLength: 4 }).map((members) => `{${members.join(",")}}`),
    fc.array(member, { maxLength: 2 }).map((members) => `{"children":[{${members.join(",")}}]}`),
    fc.array(member, { maxLength: 2 }).map((members) => `{"nested":{${members.join(", ")}} }`),
  );

  test("what fromJsonString() refuses is never read", () => {
    const outcomes = new Set<string>();
    fc.assert(
      fc.property(garbage, (json) => {
        const message = read(bytes(json));
        let expected: unknown;
        try {
          expected = fromJsonString(EverythingSchema, bytes(json).toString());
        } catch {
          expected = "refused";
        }
        outcomes.add(`${message !== undefined} ${expected !== "refused"}`);
        if (message !== undefined) {
          expect(message).toStrictEqual(expected);
        }
      }),
      { numRuns: 20_000 },
    );
    // Never "true false".
    expect([...outcomes].sort()).toEqual(["false false", "false true", "true true"]);
  });

  test("bytes that are no text are left alone", () => {
    expect(read(Buffer.from([0x7b, 0xff, 0x7d]))).toBeUndefined();
    expect(read(Buffer.alloc(0))).toBeUndefined();
  });
});

describe.for([true, false])("writing, with fields that are not set: %s", (alwaysEmitImplicit) => {
  const write = compileWriter(EverythingSchema, { alwaysEmitImplicit });

  test("the text is that of toJson()", () => {
    fc.assert(
      fc.property(anyMessage, (json) => {
        const message = fromJson(EverythingSchema, json);

        expect(write(message)).toBe(
          JSON.stringify(toJson(EverythingSchema, message, { alwaysEmitImplicit })),
        );
      }),
      runs,
    );
  });

  test("a text with halves of characters is written as JSON wants it", () => {
    const message = create(EverythingSchema, { stringValue: "\ud800\u2028\u007f" });
    Object.assign(message, { choice: { case: "text", value: "\udfff" } });

    expect(JSON.parse(write(message))).toMatchObject({ stringValue: "\ud800\u2028\u007f" });
    expect(write(message)).toBe(
      JSON.stringify(toJson(EverythingSchema, message, { alwaysEmitImplicit })),
    );
  });

  test.for([
    { stringValue: 1 },
    { boolValue: "true" },
    { int32Value: "1" },
    { int64Value: 1.5 },
    { bytesValue: "YQ==" },
    { genre: "GENRE_NOVEL" },
    { strings: [1] },
    { child: { $typeName: "other" } },
  ])("a value of the wrong type is refused: %j", (wrong) => {
    const message = Object.assign(create(EverythingSchema), wrong);

    expect(() => write(message as never)).toThrow();
  });
});
