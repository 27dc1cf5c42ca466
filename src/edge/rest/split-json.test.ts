import { expect, test } from "vitest";
import { HttpError } from "./errors.ts";
import { createSplitter } from "./split-json.ts";

function split(format: "array" | "lines", text: string, chunkBytes: number): string[] {
  const splitter = createSplitter(format, 1_000);
  const bytes = Buffer.from(text);
  const messages: Uint8Array[] = [];
  for (let start = 0; start < bytes.length; start += chunkBytes) {
    messages.push(...splitter.push(bytes.subarray(start, start + chunkBytes)));
  }
  return [...messages, ...splitter.end()].map((message) => Buffer.from(message).toString().trim());
}

const values = [
  {},
  { a: [1, { b: "]" }] },
  'quote " and \\ and \\" and [',
  [],
  [[]],
  1,
  -2.5e3,
  true,
  null,
  "Zürich 🌍 , ] }",
];

test.for([1, 2, 3, 7, 10_000])("messages are the same in chunks of %i bytes", (chunkBytes) => {
  const texts = values.map((value) => JSON.stringify(value));

  expect(split("array", JSON.stringify(values), chunkBytes)).toEqual(texts);
  expect(split("array", `\r\n[ ${texts.join(" ,\t")} ]\n`, chunkBytes)).toEqual(texts);
  expect(split("lines", texts.join("\n"), chunkBytes)).toEqual(texts);
  expect(split("lines", `\n${texts.join("\r\n\n")}\n`, chunkBytes)).toEqual(texts);
  expect(split("array", " [ ] ", chunkBytes)).toEqual([]);
  expect(split("lines", " \n ", chunkBytes)).toEqual([]);
});

test.for([
  "",
  " ",
  "{}",
  "1",
  "[",
  "[1",
  "[1,",
  "[,1]",
  "[1,]",
  "[1,,2]",
  "[]]",
  "[] []",
  "]",
  ",",
  '["',
])("%j is no array", (text) => {
  for (const chunkBytes of [1, 100]) {
    expect(() => split("array", text, chunkBytes)).toThrow("is not a JSON array");
  }
});

test.for(["array", "lines"] as const)(
  "of %s a long message is refused before it is whole",
  (format) => {
    const splitter = createSplitter(format, 10);
    splitter.push(Buffer.from(format === "array" ? '["12345' : '"12345'));

    expect(() => splitter.push(Buffer.from("67890"))).toThrow(HttpError);
  },
);
