import { expect, test } from "vitest";
import { isNumberLiteral, jsonDepth, parseExactJson } from "./exact-json.ts";

test.for([
  '{"a":0.10,"b":[1e400,-0,12345678901234567890.123456789]}',
  '{"__proto__":{"x":1.50}}',
  '"\\u0000"',
  "1.0",
  "null",
])("%s is written as it came", (text) => {
  expect(JSON.stringify(parseExactJson(text, { depthMax: 3 }))).toBe(text);
});

test("only numbers are literals", () => {
  expect(isNumberLiteral(parseExactJson("1.50", { depthMax: 1 }))).toBe(true);
  for (const text of ['"1.50"', "{}", '{"rawJSON":"1"}', "null", "true"]) {
    expect(isNumberLiteral(parseExactJson(text, { depthMax: 1 })), text).toBe(false);
  }
});

test.for([
  ["1", 0],
  ["[]", 1],
  ['{"a":[{}]}', 3],
  ['[[],[[]],"[[[[["]', 3],
  ['["\\"[[[[", "\\\\", []]', 2],
] as const)("%s is %i deep", ([text, depth]) => {
  expect(jsonDepth(text)).toBe(depth);
});

test.for(["[[[]]]", `${"[".repeat(500_000)}`, `${"[".repeat(500_000)}${"]".repeat(500_000)}`])(
  "what is too deep is refused before it is parsed",
  (text) => {
    expect(() => parseExactJson(text, { depthMax: 2 })).toThrow(SyntaxError);
  },
);
