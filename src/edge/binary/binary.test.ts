import { create, fromBinary, fromJson, type Message, toBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { EverythingSchema } from "../../../test/gen/callora/test/v1/library_service_pb.ts";
import { anyJson, usualJson } from "../../../test/support/everything.ts";
import { compileBinaryReader } from "./read.ts";
import { compileBinaryWriter } from "./write.ts";

const runs = { numRuns: 1000 };
const bytesOf = (message: Message) => Buffer.from(toBinary(EverythingSchema, message as never));
const read = compileBinaryReader(EverythingSchema);
const write = compileBinaryWriter(EverythingSchema);

const text = fc.oneof(fc.string(), fc.string({ unit: "binary" }));
const long = fc.bigInt({ min: 0n, max: 2n ** 49n - 1n });
const scalars = {
  boolValue: fc.boolean(),
  int32Value: fc.nat(),
  int64Value: long,
  uint32Value: fc.nat(2 ** 32 - 1),
  doubleValue: fc.double(),
  stringValue: text,
  bytesValue: fc.uint8Array({ maxLength: 200 }),
  genre: fc.nat(9),
  maybe: fc.nat(),
  time: fc.record({ seconds: long, nanos: fc.nat(999_999_999) }),
  ints: fc.array(fc.nat(), { maxLength: 3 }),
  longs: fc.array(long, { maxLength: 3 }),
  strings: fc.array(text, { maxLength: 3 }),
  choice: fc.record({ case: fc.constant("text"), value: text }),
};
const child = fc.record(scalars, { requiredKeys: [] });
const usual = fc.record(
  { ...scalars, child, children: fc.array(child, { maxLength: 3 }) },
  { requiredKeys: [] },
);

describe("reading", () => {
  test("what clients usually send becomes the message that fromBinary() makes of it", () => {
    fc.assert(
      fc.property(usual, (init) => {
        const bytes = bytesOf(create(EverythingSchema, init as never));

        expect(read(bytes)).toStrictEqual(fromBinary(EverythingSchema, bytes));
      }),
      runs,
    );
  });

  test("texts, numbers and messages in messages are read here", () => {
    const whole = {
      boolValue: true,
      int32Value: 2 ** 31 - 1,
      int64Value: 2n ** 48n,
      uint32Value: 2 ** 32 - 1,
      doubleValue: -0.5,
      stringValue: "é漢😀",
      bytesValue: new Uint8Array([1, 2]),
      genre: 9,
      maybe: 0,
      time: { seconds: 7n, nanos: 5 },
      ints: [1, 300],
      strings: ["", "a".repeat(200)],
      children: [{ stringValue: "b" }, {}],
      choice: { case: "nested", value: { child: { int32Value: 3 } } },
    } as const;
    const bytes = bytesOf(create(EverythingSchema, whole as never));

    expect(read(bytes)).toStrictEqual(fromBinary(EverythingSchema, bytes));
  });

  test("all else is left alone, or becomes the same", () => {
    const outcomes = new Set<boolean>();
    const json = fc.oneof(anyJson, fc.record({ int32Value: fc.integer(), stringValue: text }));
    fc.assert(
      fc.property(json, (value) => {
        const bytes = bytesOf(fromJson(EverythingSchema, value));
        const message = read(bytes);
        outcomes.add(message === undefined);
        if (message !== undefined) {
          expect(message).toStrictEqual(fromBinary(EverythingSchema, bytes));
        }
      }),
      runs,
    );
    expect([...outcomes].sort()).toEqual([false, true]);
  });

  // Bytes that are nearly messages: tags of all fields and types, lengths, and parts of real ones.
  const tag = fc
    .tuple(fc.constantFrom(...EverythingSchema.fields.map(({ number }) => number)), fc.nat(5))
    .map(([number, type]) => varint(number * 8 + type));
  const part = fc.oneof(
    tag,
    fc.nat(300).map(varint),
    fc.uint8Array({ maxLength: 12 }),
    fc.constant(varint(2 ** 32 + 8)),
    fc.constant(new Uint8Array(11).fill(0xff)),
    usualJson.map((json) => bytesOf(fromJson(EverythingSchema, json)).subarray(0, 40)),
  );
  const garbage = fc.array(part, { maxLength: 6 }).map((parts) => Buffer.concat(parts));

  test("what fromBinary() refuses is never read", () => {
    const outcomes = new Set<string>();
    fc.assert(
      fc.property(garbage, (bytes) => {
        const message = read(bytes);
        let expected: Message | undefined;
        try {
          expected = fromBinary(EverythingSchema, bytes);
        } catch {
          expected = undefined;
        }
        outcomes.add(`${message !== undefined} ${expected !== undefined}`);
        if (message !== undefined) {
          expect(message).toStrictEqual(expected);
        }
      }),
      { numRuns: 20_000 },
    );
    // Never "true false".
    expect([...outcomes].sort()).toEqual(["false false", "false true", "true true"]);
  });

  test("a message that is cut off is read like fromBinary() does, or not at all", () => {
    fc.assert(
      fc.property(usual, fc.integer({ min: 1, max: 9 }), (init, missing) => {
        const bytes = bytesOf(create(EverythingSchema, init as never)).subarray(0, -missing);
        const message = read(bytes);
        if (message !== undefined) {
          expect(message).toStrictEqual(fromBinary(EverythingSchema, bytes));
        }
      }),
      { numRuns: 5_000 },
    );
  });

  test("a message that comes twice is left to be merged", () => {
    const bytes = bytesOf(create(EverythingSchema, { child: { stringValue: "a" } }));

    expect(read(bytes)).toBeDefined();
    expect(read(Buffer.concat([bytes, bytes]))).toBeUndefined();
  });

  test("a message in a message is no deeper than a stack", () => {
    let deep = create(EverythingSchema);
    for (let depth = 0; depth < 60; depth++) {
      deep = create(EverythingSchema, { child: deep });
    }

    expect(read(bytesOf(deep))).toBeUndefined();
  });
});

describe("writing", () => {
  test.for([0, 5])("the bytes are those of toBinary(), behind %i others", (head) => {
    let left = 0;
    fc.assert(
      fc.property(anyJson, (json) => {
        const message = fromJson(EverythingSchema, json);
        const bytes = write(message, head);
        left += bytes === undefined ? 1 : 0;
        if (bytes !== undefined) {
          expect(bytes.subarray(head).equals(bytesOf(message))).toBe(true);
        }
      }),
      runs,
    );
    expect(left).toBeLessThan(runs.numRuns);
  });

  test.for([
    { boolValue: true, genre: 9, maybe: 0, doubleValue: -0 },
    { int32Value: -1, ints: [-(2 ** 31), 2 ** 31 - 1] },
    { uint32Value: 2 ** 32 - 1 },
    { int64Value: -(2n ** 63n), longs: [-1n, 127n, 128n, 2n ** 32n, 2n ** 63n - 1n] },
    { uint64Value: 2n ** 64n - 1n },
    { stringValue: "é".repeat(42), strings: ["a".repeat(43), "\ud800", "😀"] },
    { bytesValue: new Uint8Array([0, 255]), time: { seconds: -1n, nanos: 9 } },
    { children: [{}, { stringValue: "c".repeat(200) }, { stringValue: "d".repeat(9000) }] },
    { choice: { case: "text", value: "" } },
  ])("%o is written here", (init) => {
    const message = create(EverythingSchema, init as never);

    expect(write(message, 5)?.subarray(5)).toEqual(bytesOf(message));
  });

  test.for([
    { stringValue: 1 },
    { boolValue: "true" },
    { int32Value: 2 ** 31 },
    { int32Value: 1.5 },
    { uint32Value: -1 },
    { int64Value: 2n ** 63n },
    { uint64Value: -1n },
    { bytesValue: "YQ==" },
    { strings: [1] },
    { child: { $typeName: "other" } },
    { $unknown: [{ no: 99, wireType: 0, data: new Uint8Array([1]) }] },
    { stringValue: "x".repeat(17_000) },
  ])("what is wrong, or rare, is left to toBinary(): %o", (wrong) => {
    const message = Object.assign(create(EverythingSchema), wrong);

    expect(write(message, 5)).toBeUndefined();
    expect(write(create(EverythingSchema, { int32Value: 1 }), 0)).toEqual(Buffer.from([16, 1]));
  });
});

function varint(value: number): Uint8Array {
  const bytes: number[] = [];
  let rest = value;
  while (rest > 0x7f) {
    bytes.push((rest % 0x80) | 0x80);
    rest = Math.floor(rest / 0x80);
  }
  return Uint8Array.from([...bytes, rest]);
}
