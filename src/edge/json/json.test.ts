import { create, fromJson, fromJsonString, toJson } from "@bufbuild/protobuf";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { EverythingSchema } from "../../../test/gen/callora/test/v1/library_service_pb.ts";
import { anyJson, usualJson } from "../../../test/support/everything.ts";
import { compileReader } from "./read.ts";
import { compileWriter } from "./write.ts";

const runs = { numRuns: 1000 };

describe("reading", () => {
  const read = compileReader(EverythingSchema);
  const bytes = (json: string) => Buffer.from(json);

  test("what clients usually send becomes the message that fromJson() makes of it", () => {
    fc.assert(
      fc.property(usualJson, fc.constantFrom("", " "), (json, space) => {
        const sent = JSON.stringify(json, null, space).replaceAll("\n", space);

        expect(read(bytes(sent))).toStrictEqual(fromJson(EverythingSchema, JSON.parse(sent)));
      }),
      runs,
    );
  });

  test("all else is left alone, or becomes the same", () => {
    let left = 0;
    fc.assert(
      fc.property(anyJson, (json) => {
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
      fc.property(anyJson, (json) => {
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
