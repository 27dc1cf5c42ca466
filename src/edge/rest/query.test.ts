import { create, type DescField, type DescMessage, toJson } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import {
  BookSchema,
  EverythingSchema,
  ListBooksRequestSchema,
  UpdateBookRequestSchema,
} from "../../../test/gen/callora/test/v1/library_service_pb.ts";
import { BindError, violationsMax } from "./errors.ts";
import { compilePath, type FieldPath, resolveTextField } from "./field-path.ts";
import { type Bound, bindQuery, compileQuery, queryKeysMax } from "./query.ts";

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

function pathOf(desc: DescMessage, name: string): FieldPath {
  const path: DescField[] = [];
  let message: DescMessage | undefined = desc;
  for (const part of name.split(".")) {
    const field: DescField | undefined = message?.fields.find((other) => other.name === part);
    if (field === undefined) {
      throw new Error(`Cannot find field ${name}`);
    }
    path.push(field);
    message = field.message;
  }
  return path as unknown as FieldPath;
}

// Each value in the field's JSON form, which is what the client of a correct binding would see
// back.
const accepted = [
  ["bool_value", "true", true],
  ["int32_value", "-2147483648", -2147483648],
  ["int32_value", "007", 7],
  ["int64_value", "9223372036854775807", "9223372036854775807"],
  ["uint32_value", "4294967295", 4294967295],
  ["uint64_value", "18446744073709551615", "18446744073709551615"],
  ["sint32_value", "-1", -1],
  ["sint64_value", "-9223372036854775808", "-9223372036854775808"],
  ["fixed32_value", "1", 1],
  ["fixed64_value", "1", "1"],
  ["sfixed32_value", "-1", -1],
  ["sfixed64_value", "-1", "-1"],
  ["long_text", "-12345678901234", "-12345678901234"],
  ["float_value", "1.5", 1.5],
  ["float_value", "-3.4e38", -3.4e38],
  ["float_value", "NaN", "NaN"],
  ["double_value", "1e2", 100],
  ["double_value", "-0.5E-3", -0.0005],
  ["double_value", "Infinity", "Infinity"],
  ["double_value", "-Infinity", "-Infinity"],
  ["string_value", "a+b%20c%2B", "a b c+"],
  ["string_value", "%22quoted%22", '"quoted"'],
  ["string_value", "%F0%9F%98%80", "😀"],
  ["string_value", "a=b", "a=b"],
  ["string_value", "null", "null"],
  ["bytes_value", "-_8", "+/8="],
  ["bytes_value", "%2B/8=", "+/8="],
  ["bytes_value", "YQ==", "YQ=="],
  ["bytes_value", "YQ", "YQ=="],
  ["genre", "GENRE_POEM", "GENRE_POEM"],
  ["genre", "1", "GENRE_NOVEL"],
  ["genre", "77", 77],
  ["genre", "-1", -1],
  ["maybe", "0", 0],
  ["renamed", "x", "x"],
  ["otherName", "x", "x"],
  ["time", "2026-01-31T12:00:00.5Z", "2026-01-31T12:00:00.500Z"],
  ["time", "2026-01-31T12:00:00%2B02:00", "2026-01-31T10:00:00Z"],
  ["time", "2024-02-29T23:59:59Z", "2024-02-29T23:59:59Z"],
  ["time", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"],
  ["span", "1.5s", "1.500s"],
  ["span", "-0.000000001s", "-0.000000001s"],
  ["mask", "displayName,birth_year,a.bC", "displayName,birthYear,a.bC"],
  ["mask", "", ""],
  ["bool_box", "false", false],
  ["int32_box", "0", 0],
  ["int64_box", "-7", "-7"],
  ["uint32_box", "7", 7],
  ["uint64_box", "7", "7"],
  ["float_box", "0.25", 0.25],
  ["double_box", "1e300", 1e300],
  ["string_box", "", ""],
  ["bytes_box", "YQ", "YQ=="],
  ["text", "t", "t"],
  ["number", "0", 0],
  ["box", "b", "b"],
  ["stringValue", "json+name", "json name"],
] as const;

test.for(accepted)("%s=%s is read as %s", ([name, text, expected]) => {
  const message = bindQuery(EverythingSchema, `${name}=${text}`);

  const json = toJson(EverythingSchema, message) as Record<string, unknown>;
  expect(Object.values(json)).toEqual([expected]);
});

test.for([
  ["bool_value", ["1", "0", "TRUE", "t", "yes", "", "null", "true "]],
  [
    "int32_value",
    ["", "+", "%201", "1%20", "1.5", "1.0", "0x10", "1e2", "2147483648", "%2B1", "-"],
  ],
  ["int32_value", ["-2147483649", "null", "1_000", "NaN", "%EF%BC%91", "1%0A"]],
  ["int64_value", ["9223372036854775808", "-9223372036854775809", "1n", "", "9".repeat(5000)]],
  ["long_text", ["9223372036854775808", "x"]],
  ["uint32_value", ["-1", "4294967296"]],
  ["uint64_value", ["-1", "18446744073709551616"]],
  ["fixed32_value", ["-1"]],
  ["sfixed64_value", ["1.0"]],
  ["float_value", ["3.5e38", "1e39", "", "x", "inf", "+Infinity", "nan"]],
  ["double_value", ["1e309", ".5", "5.", "01", "0x1", "1%20", "", "1,5", "infinity", "null"]],
  ["bytes_value", ["a", "YQ=", "Y=Q=", "YQ===", "a*bc", "YQ%20=", "=", "YWJj="]],
  ["genre", ["genre_poem", "POEM", "", "null", "1.0", "2147483648", "__proto__", "constructor"]],
  ["null_value", ["NULL", "nil"]],
  ["time", ["null", "", "2026-01-31", "2026-13-01T00:00:00Z", "2026-02-30T00:00:00Z"]],
  ["time", ["2026-01-01T24:00:00Z", "0000-01-01T00:00:00Z", "10000-01-01T00:00:00Z", "1769860800"]],
  ["span", ["null", "", "1", "13h0m0s", "1.5", "1sx", "1.1234567890s", "315576000001s", "%201s"]],
  ["mask", ["a,", ",a", "a,,b", "a b", "a..b", "1a", "*"]],
  ["bool_box", ["1"]],
  ["int32_box", ["", "null"]],
  ["number", ["x"]],
  ["ints", ["1,2", "", "[1]"]],
] as const)("%s refuses %j", ([name, texts]) => {
  for (const text of texts) {
    const found = violationsOf(() => bindQuery(EverythingSchema, `${name}=${text}`));

    expect(found, text).toHaveLength(1);
    expect(found[0], text).toMatch(new RegExp(`^${name}: must be `));
  }
});

test("NullValue takes null", () => {
  expect(violationsOf(() => bindQuery(EverythingSchema, "null_value=null"))).toEqual([]);
  expect(violationsOf(() => bindQuery(EverythingSchema, "null_value=NULL_VALUE"))).toEqual([]);
});

describe("keys", () => {
  test("repeated fields repeat their key, in order, without splitting at commas", () => {
    const query =
      "ints=1&strings=a,b&ints=2&genres=GENRE_POEM&genres=1&times=2026-01-01T00:00:00Z" +
      "&boxes=x&boxes=&blobs=YQ&longs=5";

    const message = bindQuery(EverythingSchema, query);

    expect(toJson(EverythingSchema, message)).toEqual({
      ints: [1, 2],
      longs: ["5"],
      strings: ["a,b"],
      genres: ["GENRE_POEM", "GENRE_NOVEL"],
      times: ["2026-01-01T00:00:00Z"],
      boxes: ["x", ""],
      blobs: ["YQ=="],
    });
  });

  test("dotted keys reach into messages, in either spelling of each part", () => {
    const query = "child.int32_value=1&child.int64Value=2&child.child.otherName=x&child.ints=3";

    const message = bindQuery(EverythingSchema, query);

    expect(toJson(EverythingSchema, message)).toEqual({
      child: { int32Value: 1, int64Value: "2", child: { otherName: "x" }, ints: [3] },
    });
  });

  test("empty pieces, missing equals signs and encoded keys follow the form rules", () => {
    const message = bindQuery(EverythingSchema, "&&string%5Fvalue&&string_box=a&maybe=1&");

    expect(toJson(EverythingSchema, message)).toEqual({ stringBox: "a", maybe: 1 });
    expect(bindQuery(EverythingSchema, "")).toEqual(create(EverythingSchema));
  });

  test.for([
    ["nothing=1", "nothing: is not a known field"],
    ["child.nothing=1", "child.nothing: is not a known field"],
    ["=1", ": is not a known field"],
    [".=1", ".: is not a known field"],
    ["child.=1", "child.: is not a known field"],
    [".child=1", ".child: is not a known field"],
    ["__proto__=1", "__proto__: is not a known field"],
    ["constructor.name=1", "constructor.name: is not a known field"],
    ["$typeName=1", "$typeName: is not a known field"],
    ["INT32_VALUE=1", "INT32_VALUE: is not a known field"],
    ["child=1", "child: cannot be set from text"],
    ["children=1", "children: cannot be set from text"],
    ["children.text=1", "children.text: is not a known field"],
    ["children[0].text=1", "children[0].text: is not a known field"],
    ["ints[]=1", "ints[]: is not a known field"],
    ["counts=1", "counts: cannot be set from text"],
    ["counts.a=1", "counts.a: is not a known field"],
    ["counts[a]=1", "counts[a]: is not a known field"],
    ["any=%7B%7D", "any: cannot be set from text"],
    ["any.type_url=x", "any.type_url: is not a known field"],
    ["struct=%7B%7D", "struct: cannot be set from text"],
    ["struct.a=1", "struct.a: is not a known field"],
    ["value=1", "value: cannot be set from text"],
    ["list=1", "list: cannot be set from text"],
    ["empty=", "empty: cannot be set from text"],
    ["time.seconds=1", "time.seconds: is not a known field"],
    ["string_box.value=1", "string_box.value: is not a known field"],
    ["string_value.x=1", "string_value.x: is not a known field"],
    ["maybe=1&maybe=2", "maybe: has more than one value"],
    ["int32_value=0&int32Value=0", "int32Value: has more than one value"],
    ["child.maybe=1&child.maybe=1", "child.maybe: has more than one value"],
    ["text=a&text=b", "text: has more than one value"],
    ["text=a&number=1", "number: is one of several alternatives, and another is set"],
    ["box=a&nested.text=b", "nested.text: is one of several alternatives, and another is set"],
    ["nested.text=b&text=a", "text: is one of several alternatives, and another is set"],
    ["nested.text=b&nested.number=1", "nested.number: is one of several alternatives"],
    ["string_value=%", "string_value: has a percent escape that is broken or not UTF-8"],
    ["string_value=%ff", "string_value: has a percent escape that is broken or not UTF-8"],
    ["string_value=\u00e9", "string_value: has a percent escape that is broken or not UTF-8"],
    ["%ff=1", "%ff: has a percent escape that is broken or not UTF-8"],
    [`${"child.".repeat(32)}text=1`, "has more than 32 parts"],
    [`${"child.".repeat(4000)}text=1`, "has more than 32 parts"],
  ] as const)("%s is refused", ([query, expected]) => {
    const found = violationsOf(() => bindQuery(EverythingSchema, query));

    expect(found).toHaveLength(1);
    expect(found[0]).toContain(expected);
  });

  test("several members of one message within a oneof go together", () => {
    const message = bindQuery(EverythingSchema, "nested.text=a&nested.maybe=1&child.text=b");

    expect(toJson(EverythingSchema, message)).toEqual({
      nested: { text: "a", maybe: 1 },
      child: { text: "b" },
    });
  });

  test("every violation is reported, up to a limit, with keys cut short", () => {
    const query = `int32_value=x&genre=y&${"z".repeat(500)}=1`;

    const found = violationsOf(() => bindQuery(EverythingSchema, query));

    expect(found).toEqual([
      "int32_value: must be a 32-bit integer",
      "genre: must be a name or number of callora.test.v1.Genre",
      `${"z".repeat(100)}: is not a known field`,
    ]);
    const many = violationsOf(() => bindQuery(EverythingSchema, "x=1&".repeat(500)));
    expect(many).toHaveLength(violationsMax);
  });

  test("too many keys are refused before any is read", () => {
    const within = bindQuery(EverythingSchema, Array(queryKeysMax).fill("ints=1").join("&"));
    const found = violationsOf(() => bindQuery(EverythingSchema, "&ints=1".repeat(queryKeysMax)));

    expect(within.ints).toHaveLength(queryKeysMax);
    expect(found).toEqual([`: query has more than ${queryKeysMax} keys`]);
  });

  test("system parameters are skipped, unless the message has a field of that name", () => {
    const query =
      "alt=json&$alt=x&api_key=k&prettyPrint=1&fields=a&$fields=b&callback=c&quotaUser=u";

    expect(bindQuery(EverythingSchema, `${query}&key=x&alt=y`)).toEqual(create(EverythingSchema));
    expect(bindQuery(ListBooksRequestSchema, `${query}&key=x`).key).toBe("x");
  });
});

describe("what path and body hold", () => {
  const desc = UpdateBookRequestSchema;

  test.for([
    [[pathOf(desc, "note")], "note=x", "note"],
    [[pathOf(desc, "book")], "book.title=x", "book.title"],
    [[pathOf(desc, "book")], "book.author.displayName=x", "book.author.displayName"],
    [[pathOf(desc, "book.id")], "book.id=x", "book.id"],
    ["*", "note=x", "note"],
  ] as const)("is unknown to the query: %#", ([bound, query, field]) => {
    const found = violationsOf(() => bindQuery(desc, query, bound as Bound));

    expect(found).toEqual([
      `${field}: is not a known field of the query: the path or the body holds it`,
    ]);
  });

  test("leaves the fields beside it to the query", () => {
    const message = bindQuery(desc, "book.title=t&update_mask=title", [pathOf(desc, "book.id")]);

    expect(toJson(desc, message)).toEqual({ book: { title: "t" }, updateMask: "title" });
  });

  test("skips system parameters even if the body holds everything", () => {
    expect(bindQuery(desc, "alt=json&key=k", "*")).toEqual(create(desc));
    expect(bindQuery(ListBooksRequestSchema, "key=k", "*")).toEqual(create(ListBooksRequestSchema));
  });

  test("rules out the other members of its oneof", () => {
    const bound = [pathOf(EverythingSchema, "number")];

    const found = violationsOf(() => bindQuery(EverythingSchema, "text=a", bound));

    expect(found).toEqual([
      "text: is one of several alternatives, and the path or the body holds another",
    ]);
  });

  test("is kept when the query adds to the message", () => {
    const message = create(desc, { book: { id: "b1" }, tags: ["t"] });

    compileQuery(desc, [pathOf(desc, "tags")])(message, "book.title=x&note=n");

    expect(toJson(desc, message)).toEqual({
      book: { id: "b1", title: "x" },
      tags: ["t"],
      note: "n",
    });
  });
});

test("64-bit integers are bigints, or strings where the field says so", () => {
  const message = bindQuery(EverythingSchema, "int64_value=1&long_text=2&longs=3");

  expect(message).toMatchObject({ int64Value: 1n, longText: "2", longs: [3n] });
});

test("a compiled query keeps nothing from call to call", () => {
  const bind = compileQuery(EverythingSchema, []);
  const [first, second] = [create(EverythingSchema), create(EverythingSchema)];

  bind(first, "maybe=1&ints=1&text=a");
  bind(second, "maybe=2&ints=2&number=1");

  expect(second).toMatchObject({ maybe: 2, ints: [2], choice: { case: "number", value: 1 } });
});

describe("compilePath", () => {
  function fieldsOf(...names: string[]) {
    return names.map((name) => {
      const found = resolveTextField(EverythingSchema, name.split("."));
      if ("reason" in found) {
        throw new Error(`Cannot find field ${name}: ${found.reason}`);
      }
      return found;
    });
  }

  test("sets each field, whatever the body and the query have set", () => {
    const fields = fieldsOf("string_value", "child.int64_value", "number", "time");
    const message = create(EverythingSchema, {
      stringValue: "body",
      child: { maybe: 1 },
      choice: { case: "text", value: "body" },
    });

    compilePath(fields)(message, ["path", "7", "8", "2026-01-01T00:00:00Z"]);

    expect(toJson(EverythingSchema, message)).toEqual({
      stringValue: "path",
      child: { maybe: 1, int64Value: "7" },
      number: 8,
      time: "2026-01-01T00:00:00Z",
    });
  });

  test("reports every value of the wrong form", () => {
    const bind = compilePath(fieldsOf("int32_value", "child.genre"));

    const found = violationsOf(() => bind(create(EverythingSchema), ["x", "GENRE"]));

    expect(found).toEqual([
      "int32_value: must be a 32-bit integer",
      "child.genre: must be a name or number of callora.test.v1.Genre",
    ]);
  });
});

test("the message of a BindError names the fields", () => {
  expect(() => bindQuery(BookSchema, "pages=x&nothing=1")).toThrow(
    'Cannot read request: "pages" must be a 64-bit integer; "nothing" is not a known field',
  );
});
