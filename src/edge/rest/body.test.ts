import { create, createRegistry, type DescField, toBinary, toJson } from "@bufbuild/protobuf";
import { anyPack, NullValue } from "@bufbuild/protobuf/wkt";
import { expect, test } from "vitest";
import { HttpBodySchema } from "../../../gen/google/api/httpbody_pb.ts";
import {
  BookSchema,
  CreateBookRequestSchema,
  EverythingSchema,
  GetFileResponseSchema,
  ListBooksResponseSchema,
  PutFileRequestSchema,
  UpdateBookRequestSchema,
} from "../../../test/gen/callora/test/v1/library_service_pb.ts";
import { cpuMsOf } from "../../../test/support/cpu.ts";
import { decodeBody, encodeBody, jsonDepthMax } from "./body.ts";
import { BindError, violationsMax } from "./errors.ts";
import { getHttpBody, isHttpBody, setHttpBody } from "./http-body.ts";

function bytesOf(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

function read(text: string): unknown {
  return toJson(EverythingSchema, decodeBody(EverythingSchema, "*", bytesOf(text)));
}

function violationsOf(run: () => unknown): string[] {
  try {
    run();
  } catch (error) {
    if (error instanceof BindError) {
      return error.violations.map(({ field, description }) => `${field}: ${description}`);
    }
    throw error;
  }
  return [];
}

test("a whole message is read from either spelling of its fields", () => {
  const text = '{"int32_value":1,"int64Value":"2","child":{"otherName":"x"},"text":null}';

  expect(read(text)).toEqual({ int32Value: 1, int64Value: "2", child: { otherName: "x" } });
});

test("of a repeated JSON key the last value counts", () => {
  expect(read('{"maybe":1,"maybe":2}')).toEqual({ maybe: 2 });
});

test("an empty body is an empty message, or a field that is not set", () => {
  const empty = new Uint8Array();
  const { book } = UpdateBookRequestSchema.field;

  expect(decodeBody(EverythingSchema, "*", empty)).toEqual(create(EverythingSchema));
  expect(decodeBody(UpdateBookRequestSchema, book, empty).book).toBeUndefined();
  expect(decodeBody(BookSchema, undefined, empty)).toEqual(create(BookSchema));
});

test("a body where the rule has none is refused", () => {
  const found = violationsOf(() => decodeBody(BookSchema, undefined, bytesOf("{}")));

  expect(found).toEqual([": request takes no body"]);
});

test.for([
  ["book", '{"id":"b","pages":"7"}', { book: { id: "b", pages: "7" } }],
  ["book", "null", {}],
  ["tags", '["a","b"]', { tags: ["a", "b"] }],
  ["tags", "[]", {}],
  ["labels", '{"a":"1","__proto__":"2"}', { labels: { a: "1", ["__proto__"]: "2" } }],
  ["note", '"text"', { note: "text" }],
  ["updateMask", '"book.title"', { updateMask: "book.title" }],
] as const)("the field %s is read from %s", ([name, text, expected]) => {
  const field = UpdateBookRequestSchema.field[name] as DescField;

  const message = decodeBody(UpdateBookRequestSchema, field, bytesOf(text));

  expect(JSON.stringify(toJson(UpdateBookRequestSchema, message))).toBe(JSON.stringify(expected));
});

test.for([
  ["book", '{"nothing":1}', "book.nothing: is not a known field"],
  ["book", "[]", "book: must be an object"],
  ["book", '"x"', "book: must be an object"],
  ["tags", '"a"', "tags: must be an array"],
  ["tags", '["a",1]', "tags[1]: must be a string"],
  ["labels", "[]", "labels: must be an object"],
  ["labels", '{"a":1}', "labels: has a key or value of the wrong type"],
  ["note", "1", "note: must be a string"],
  ["note", "{}", "note: must be a string"],
] as const)("the field %s refuses %s", ([name, text, expected]) => {
  const field = UpdateBookRequestSchema.field[name] as DescField;

  const found = violationsOf(() => decodeBody(UpdateBookRequestSchema, field, bytesOf(text)));

  expect(found).toEqual([expected]);
});

test.for([
  ['{"nothing":1}', "nothing: is not a known field"],
  ['{"__proto__":{}}', "__proto__: is not a known field"],
  ['{"constructor":1}', "constructor: is not a known field"],
  ['{"child":{"child":{"nothing":1}}}', "child.child.nothing: is not a known field"],
  ['{"children":[{},{"nothing":1}]}', "children[1].nothing: is not a known field"],
  ['{"children":{}}', "children: must be an array"],
  ['{"children":[null]}', "children[0]: must be an object"],
  [
    '{"childrenByName":{"a b":{"nothing":1}}}',
    'childrenByName["a b"].nothing: is not a known field',
  ],
  ['{"childrenByName":[]}', "childrenByName: must be an object"],
  ['{"int32Value":"x"}', "int32Value: must be a 32-bit integer"],
  ['{"int32_value":2147483648}', "int32_value: must be a 32-bit integer"],
  ['{"int32Value":1.5}', "int32Value: must be a 32-bit integer"],
  ['{"int32Value":true}', "int32Value: must be a 32-bit integer"],
  ['{"uint64Value":"-1"}', "uint64Value: must be an unsigned 64-bit integer"],
  ['{"boolValue":"true"}', "boolValue: must be true or false"],
  ['{"stringValue":1}', "stringValue: must be a string"],
  ['{"stringValue":"\\ud800"}', "stringValue: must be a string"],
  ['{"bytesValue":"*"}', "bytesValue: must be base64"],
  ['{"floatValue":1e39}', "floatValue: must be a number in the range of a float"],
  ['{"genre":"NOPE"}', "genre: must be a name or number of callora.test.v1.Genre"],
  ['{"time":"yesterday"}', "time: must be an RFC 3339 time, such as 2026-01-31T12:00:00Z"],
  ['{"span":"1.12345678901s"}', "span: must be a duration in seconds, such as 1.5s"],
  ['{"mask":"a_b"}', "mask: must be field names, separated by commas"],
  ['{"int32Box":"x"}', "int32Box: must be a 32-bit integer"],
  ['{"struct":[]}', "struct: must be the JSON form of google.protobuf.Struct"],
  ['{"list":{}}', "list: must be the JSON form of google.protobuf.ListValue"],
  ['{"any":{"@type":"x/y.Z"}}', "any: must be the JSON form of google.protobuf.Any"],
  ['{"empty":{"x":1}}', "empty.x: is not a known field"],
  ['{"ints":[1,2,"x"]}', "ints[2]: must be a 32-bit integer"],
  ['{"times":["x"]}', "times"],
  ['{"counts":{"a":"x"}}', "counts: has a key or value of the wrong type"],
  ['{"genresById":{"x":1}}', "genresById: has a key or value of the wrong type"],
  ['{"text":"a","number":1}', "number: is one of several alternatives, and another is set"],
  ['{"maybe":1,"int32_value":1,"int32Value":2}', "int32Value: has more than one value"],
  ["[]", ": must be an object"],
  ["null", ": must be an object"],
  ['"x"', ": must be an object"],
  ["1", ": must be an object"],
] as const)("a body %s is refused, naming the field", ([text, expected]) => {
  const found = violationsOf(() => decodeBody(EverythingSchema, "*", bytesOf(text)));

  expect(found).toHaveLength(1);
  expect(found[0]).toContain(expected);
});

test.for([
  ["{", "body is not valid JSON"],
  ['{"a":}', "body is not valid JSON"],
  ["{'a':1}", "body is not valid JSON at character 1"],
  ['{"a":1}}', "body is not valid JSON at character 7"],
  ['{"secret":"hunter2",}', "body is not valid JSON"],
  [" ", "body is not valid JSON"],
  ["undefined", "body is not valid JSON"],
  ["NaN", "body is not valid JSON"],
  ['{"text":"a\nb"}', "body is not valid JSON"],
] as const)("malformed JSON %s is refused without quoting it", ([text, expected]) => {
  const found = violationsOf(() => decodeBody(EverythingSchema, "*", bytesOf(text)));

  expect(found).toHaveLength(1);
  expect(found[0]).toContain(expected);
  expect(found[0]).not.toContain("hunter2");
});

test("a body that is not UTF-8 is refused", () => {
  const bytes = Uint8Array.of(0x22, 0xff, 0x22);

  const found = violationsOf(() => decodeBody(EverythingSchema, "*", bytes));

  expect(found).toEqual([": body is not UTF-8"]);
});

test("brackets nest to a limit; those within strings do not count", () => {
  const nest = (levels: number) => `${'{"child":'.repeat(levels)}{}${"}".repeat(levels)}`;

  expect(read(`{"stringValue":"${"[{".repeat(1000)}\\"[["}`)).toBeDefined();
  expect(read(`{"strings":[${'"{[","]",'.repeat(100)}""]}`)).toBeDefined();
  expect(violationsOf(() => read(nest(jsonDepthMax - 1)))).toEqual([]);
  expect(violationsOf(() => read(nest(jsonDepthMax)))).toEqual([
    `: body has more than ${jsonDepthMax} levels`,
  ]);
  expect(violationsOf(() => read("[".repeat(1_000_000)))).toHaveLength(1);
});

test("violations are counted up to a limit, and long keys cut short", () => {
  const many = Object.fromEntries(Array.from({ length: 1000 }, (_, index) => [`x${index}`, 1]));
  const long = { ["y".repeat(5000)]: 1 };

  expect(violationsOf(() => read(JSON.stringify(many)))).toHaveLength(violationsMax);
  expect(violationsOf(() => read(JSON.stringify(long)))[0]?.length).toBeLessThan(200);
});

test("explaining a large wrong body takes about as long as reading it", () => {
  const items = Array.from({ length: 200_000 }, (_, index) => index);
  const text = JSON.stringify({ ints: [...items, "x"], children: items.map(() => ({})), z: 1 });

  let found: string[] = [];
  const tookMs = cpuMsOf(() => {
    found = violationsOf(() => read(text));
  });

  expect(found).toEqual(["ints[200000]: must be a 32-bit integer", "z: is not a known field"]);
  expect(tookMs).toBeLessThan(3000);
});

test("Any is read and written with the registry's types", () => {
  const registry = createRegistry(BookSchema);
  const text = '{"any":{"@type":"type.googleapis.com/callora.test.v1.Book","id":"b"}}';

  const message = decodeBody(EverythingSchema, "*", bytesOf(text), { registry });

  expect(message.any?.value).toEqual(toBinary(BookSchema, create(BookSchema, { id: "b" })));
  expect(JSON.parse(encodeBody(EverythingSchema, message, undefined, { registry }))).toMatchObject({
    any: { id: "b" },
  });
});

test("a response shows fields without presence, and of the others only those that are set", () => {
  const message = create(BookSchema, { id: "b" });

  expect(JSON.parse(encodeBody(BookSchema, message, undefined))).toEqual({
    id: "b",
    title: "",
    tags: [],
    genre: "GENRE_UNSPECIFIED",
    pages: "0",
    labels: {},
    editors: [],
    lent: false,
  });
});

test.for([
  [create(EverythingSchema, { ints: [1] }), "ints", "[1]"],
  [create(EverythingSchema), "ints", "[]"],
  [create(EverythingSchema), "counts", "{}"],
  [create(EverythingSchema), "int64Value", '"0"'],
  [create(EverythingSchema), "maybe", "null"],
  [create(EverythingSchema, { maybe: 0 }), "maybe", "0"],
  [create(EverythingSchema), "child", "{}"],
  [create(EverythingSchema), "time", "null"],
  [create(EverythingSchema, { time: { seconds: 0n } }), "time", '"1970-01-01T00:00:00Z"'],
  [create(EverythingSchema), "stringBox", "null"],
  [create(EverythingSchema, { struct: { a: [1] } }), "struct", '{"a":[1]}'],
  [create(EverythingSchema), "text", "null"],
  [create(EverythingSchema, { renamed: "x" }), "renamed", '"x"'],
  [
    create(EverythingSchema, {
      value: { kind: { case: "nullValue", value: NullValue.NULL_VALUE } },
    }),
    "value",
    "null",
  ],
] as const)("response_body shows one field: %#", ([message, name, expected]) => {
  const field = EverythingSchema.field[name] as DescField;

  expect(encodeBody(EverythingSchema, message, field)).toBe(expected);
});

test("response_body shows a list and a message of a real response", () => {
  const response = create(ListBooksResponseSchema, { titles: ["a"], books: [{ id: "b" }] });

  expect(encodeBody(ListBooksResponseSchema, response, ListBooksResponseSchema.field.titles)).toBe(
    '["a"]',
  );
  const books = encodeBody(ListBooksResponseSchema, response, ListBooksResponseSchema.field.books);
  expect(JSON.parse(books)).toMatchObject([{ id: "b" }]);
});

test("an Any of an unknown type in a response is an error, not an empty object", () => {
  const any = anyPack(BookSchema, create(BookSchema));
  const message = create(EverythingSchema, { any });

  expect(() => encodeBody(EverythingSchema, message, undefined)).toThrow("type registry");
});

test("isHttpBody knows raw bodies, whole or in a field", () => {
  const { file, path } = PutFileRequestSchema.field;

  expect(isHttpBody(HttpBodySchema, "*")).toBe(true);
  expect(isHttpBody(HttpBodySchema, undefined)).toBe(true);
  expect(isHttpBody(PutFileRequestSchema, file)).toBe(true);
  expect(isHttpBody(PutFileRequestSchema, path)).toBe(false);
  expect(isHttpBody(PutFileRequestSchema, "*")).toBe(false);
  expect(isHttpBody(CreateBookRequestSchema, undefined)).toBe(false);
});

test("raw bytes go into a request and come out of a response as they are", () => {
  const data = Uint8Array.of(0, 255, 123);
  const request = create(PutFileRequestSchema, { path: "p" });
  const whole = create(HttpBodySchema);
  const response = create(GetFileResponseSchema, { file: { contentType: "image/png", data } });

  setHttpBody(request, PutFileRequestSchema.field.file, { contentType: "a/b", data });
  setHttpBody(whole, "*", { contentType: "a/b", data });

  expect(request).toMatchObject({ path: "p", file: { contentType: "a/b", data } });
  expect(getHttpBody(whole, undefined)).toEqual({ contentType: "a/b", data });
  expect(getHttpBody(response, GetFileResponseSchema.field.file)).toEqual({
    contentType: "image/png",
    data,
  });
  expect(getHttpBody(create(GetFileResponseSchema), GetFileResponseSchema.field.file)).toEqual({
    contentType: "application/octet-stream",
    data: new Uint8Array(),
  });
});
