import type { JsonObject, JsonValue } from "@bufbuild/protobuf";
import fc from "fast-check";

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

/** Messages of the type Everything as nearly all clients send them, as JSON. */
export const usualJson = messages(2, usual);

/** Messages of the type Everything with fields of every kind, as JSON. */
export const anyJson = fc.oneof(usualJson, messages(2, { ...usual, ...rare }));
