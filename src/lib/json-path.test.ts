import fc from "fast-check";
import { expect, test } from "vitest";
import { cpuMsOf } from "../../test/support/cpu.ts";
import { compilePath, findScalar, parseData } from "./json-path.ts";

function find(data: string, path: string) {
  const compiled = compilePath(path);
  if (compiled === null) {
    throw new Error(`Cannot compile ${path}`);
  }
  return findScalar(parseData(data), compiled);
}

test.for([
  ["$.tokens", '{"tokens":12}', "12"],
  ["$.usage.tokens", '{"usage":{"tokens":12}}', "12"],
  ["$['usage']['tokens']", '{"usage":{"tokens":12}}', "12"],
  ['$["a b"]', '{"a b":true}', "true"],
  ["$['it\\'s']", '{"it\'s":"x"}', "x"],
  ["$['say \"x\"']", '{"say \\"x\\"":"y"}', "y"],
  ["$['a\\\\b']", '{"a\\\\b":"y"}', "y"],
  ["$['\\u0061']", '{"a":"y"}', "y"],
  ["$.list[1].id", '{"list":[{"id":"a"},{"id":"b"}]}', "b"],
  ["$.list[-1].id", '{"list":[{"id":"a"},{"id":"b"}]}', "b"],
  ["$.größe", '{"größe":1}', "1"],
  ["$.a", '{"a":1,"a":2.50}', "2.5"],
  ["$.__proto__", '{"__proto__":3}', "3"],
  ["$['']", '{"":4}', "4"],
] as const)("%s in %s is %s", ([path, data, text]) => {
  expect(find(data, path)?.text).toBe(text);
});

test.for([
  ["$", "{}"],
  ["$", ""],
  ["$.a", "{"],
  ["$.a", '{"a":null}'],
  ["$.a", '{"a":{}}'],
  ["$.a", '{"a":[1]}'],
  ["$.a.b", '{"a":1}'],
  ["$.a.text", '{"a":1234567890123456789}'],
  ["$.a.length", '{"a":"text"}'],
  ["$.length", "[1]"],
  ["$['0']", "[1]"],
  ["$[0]", '{"0":1}'],
  ["$[1]", "[1]"],
  ["$[-2]", "[1]"],
  ["$.constructor", "{}"],
  ["$.toString", "{}"],
  ["$.__proto__", "{}"],
  ["$.a", '{"a":1e9999999999}'],
] as const)("%s in %s is nothing", ([path, data]) => {
  expect(find(data, path)).toBeNull();
});

test.for([
  "",
  "a",
  ".a",
  "$a",
  "$.",
  "$..a",
  "$.*",
  "$[*]",
  "$.a b",
  "$.1a",
  "$.a.",
  "$[",
  "$[]",
  "$[01]",
  "$[-0]",
  "$[1.5]",
  "$[1,2]",
  "$[1:2]",
  "$[?@.a]",
  "$['a]",
  "$['a'",
  "$['a\"]",
  "$['\\\"']",
  "$['\\x']",
  "$['\\u12']",
  "$['\n']",
  "$[9999999999]",
  `$${".a".repeat(17)}`,
  "$.a\0",
  " $",
])("%j is no path", (path) => {
  expect(compilePath(path)).toBeNull();
});

test("numbers keep all their digits", () => {
  const exact = "12345678901234567890.123456789012345678";

  expect(find(`{"a":${exact}}`, "$.a")?.text).toBe(exact);
  expect(find('{"a":0.10000000000000000555}', "$.a")?.text).toBe("10000000000000000555e-20");
  expect(find('{"a":5.0000000000000000001}', "$.a")?.text).not.toBe("5");
  expect(find('{"a":[{"b":9007199254740993}]}', "$.a[0].b")?.text).toBe("9007199254740993");
});

test("a number is read as it is written, whatever else is in the data", () => {
  const digits = fc.stringMatching(/^[1-9]\d{0,40}$/);
  const written = fc.oneof(
    digits,
    fc.tuple(digits, digits).map(([whole, fraction]) => `-${whole}.${fraction}`),
    fc.tuple(digits, fc.integer({ min: -400, max: 400 })).map(([whole, e]) => `${whole}E${e}`),
    fc.double({ noNaN: true, noDefaultInfinity: true }).map((value) => JSON.stringify(value)),
  );
  fc.assert(
    fc.property(written, fc.boolean(), (number, isWide) => {
      const other = isWide ? "0123456789.12345678" : "x";
      const alone = find(`{"a":${number}}`, "$.a");

      expect(find(`{"o":"${other}","a":${number}}`, "$.a")).toEqual(alone);
      expect(find(`{"o":12345678901234567890,"a":${number}}`, "$.a")).toEqual(alone);
    }),
  );
});

test("any member is found by its quoted name", () => {
  fc.assert(
    fc.property(fc.string({ unit: "grapheme", maxLength: 20 }), fc.integer(), (name, value) => {
      const path = `$[${JSON.stringify(name)}]`;
      const single = `$['${JSON.stringify(name).slice(1, -1).replaceAll('\\"', '"').replaceAll("'", "\\'")}']`;

      expect(find(JSON.stringify({ [name]: value }), path)?.text).toBe(String(value));
      expect(find(JSON.stringify({ [name]: value }), single)?.text).toBe(String(value));
    }),
  );
});

test("data that is deep or broken is no value, and no error", () => {
  expect(find("[".repeat(16_384), "$[0]")).toBeNull();
  expect(find(`${"[".repeat(8_000)}1234567890123456${"]".repeat(8_000)}`, "$[0]")).toBeNull();
  expect(find("\u0000", "$")).toBeNull();
});

test("compiling takes no long time", () => {
  const tookMs = cpuMsOf(() => {
    compilePath(`$['${"\\".repeat(100_000)}`);
    compilePath(`$['${"\\'".repeat(50_000)}`);
    compilePath(`$.${"a".repeat(100_000)}[`);
  });

  expect(tookMs).toBeLessThan(1_000);
});

test("blanks may stand between steps and within brackets, and nowhere else", () => {
  expect(compilePath("$ .a\t[ 'b' ]\n[\r0 ]")).toEqual(["a", "b", 0]);
  for (const path of ["$. a", "$.a ", " $.a", "$ ", "$[- 1]", "$[' a']x"]) {
    expect(compilePath(path)).toBeNull();
  }
  expect(compilePath("$[' a']")).toEqual([" a"]);
});
