import fc from "fast-check";
import { expect, test } from "vitest";
import { decodeFields, encodeFields, fitTogether, wrongFields } from "./format.ts";

const bedrock = {
  region: "us-east-1",
  accessKeyId: "AKIAIOSFODNN7EXAMPLE",
  secretAccessKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
};

test.for([
  ["openai", { apiKey: "sk-proj-abc_DEF-123", organization: "org-1" }],
  ["anthropic", { apiKey: "sk-ant-api03-abc" }],
  ["amazon-bedrock", bedrock],
  ["amazon-bedrock", { region: "us-gov-west-1" }],
  [
    "other",
    { token: "anything at all: é漢😀", file: "-----BEGIN X-----\r\n\tabc\n-----END X-----\n" },
  ],
  ["constructor", { toString: "x", constructor: "y" }],
  ["openai", { toString: "x" }],
] as const)("fields of %s are accepted: %j", ([provider, fields]) => {
  expect(wrongFields(provider, new Map(Object.entries(fields)))).toEqual([]);
});

test.for([
  ["openai", { apiKey: "pk-abc" }],
  ["openai", { apiKey: "sk-with space" }],
  ["openai", { apiKey: "sk-abc\n" }],
  ["openai", { apiKey: "sk-аbc" }],
  ["openai", { apiKey: `sk-${"a".repeat(600)}` }],
  ["anthropic", { apiKey: "sk-proj-abc" }],
  ["amazon-bedrock", { region: "the moon" }],
  ["amazon-bedrock", { accessKeyId: "akiaiosfodnn7example" }],
  ["amazon-bedrock", { secretAccessKey: bedrock.secretAccessKey.slice(1) }],
  ["other", { token: "a\0b" }],
  ["other", { token: "a\x1b[2Jb" }],
  ["other", { token: "a\u200bb" }],
  ["other", { token: "a\ud800b" }],
] as const)("a field of %s is refused by its name alone: %j", ([provider, fields]) => {
  const [[name, value] = ["", ""]] = Object.entries(fields);

  const wrong = wrongFields(
    provider,
    new Map([
      [name, value],
      ["note", "fine"],
    ]),
  );

  expect(wrong).toMatchObject([{ field: `keys["${name}"]` }]);
  expect(JSON.stringify(wrong)).not.toContain(value);
});

test("fields come back as they were", () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.string(), fc.string({ unit: "grapheme" }))), (entries) => {
      const fields = new Map(entries);

      expect(decodeFields(encodeFields(fields))).toEqual(fields);
    }),
  );
});

test("bytes that hold no fields are refused without a word of them", () => {
  for (const text of ["sk-secret", '{"a":"sk-secret"}', '[["sk-secret"]]', ""]) {
    expect(() => decodeFields(Buffer.from(text))).toThrow(
      expect.toSatisfy((error) => !String(error.stack).includes("sk-") && !error.cause),
    );
  }
});

test("32 fields and 64 KiB fit, and no more", () => {
  const many = (count: number, length: number) =>
    new Map(Array.from({ length: count }, (_, index) => [`f${index}`, "x".repeat(length)]));

  expect(fitTogether(many(32, 1))).toBe(true);
  expect(fitTogether(many(33, 1))).toBe(false);
  expect(fitTogether(many(8, 8_180))).toBe(true);
  expect(fitTogether(many(9, 8_192))).toBe(false);
});
