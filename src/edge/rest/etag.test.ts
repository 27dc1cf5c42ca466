import { expect, test } from "vitest";
import { entityTag, namesTag } from "./etag.ts";

const tag = entityTag('{"apis":[]}');
const opaque = tag.slice(2);

test("a body has one tag, another body another", () => {
  expect(tag).toMatch(/^W\/"[\w-]{22}"$/);
  expect(entityTag('{"apis":[]}')).toBe(tag);
  expect(entityTag('{"apis":[] }')).not.toBe(tag);
});

test.for([
  tag,
  opaque,
  "*",
  ` ${tag} `,
  `"a", ${tag}`,
  `${tag},"a"`,
  `W/"a",,${opaque}`,
  `"", "a,b", ${tag}`,
])("%s names it", (header) => {
  expect(namesTag(header, tag)).toBe(true);
});

test.for([
  undefined,
  "",
  '"a"',
  opaque.slice(1, -1),
  `w/${opaque}`,
  `"a" ${tag}`,
  `"${tag}"`,
  `"a${opaque.slice(1)}`,
  `${tag}, *`,
  `${tag}, "a`,
  `${'"a",'.repeat(2_000)}${tag}`,
])("%s does not", (header) => {
  expect(namesTag(header, tag)).toBe(false);
});
