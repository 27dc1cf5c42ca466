import { expect, test } from "vitest";
import { parseTemplate, type Template, TemplateError } from "./template.ts";

// Segments as text, variables as "name[start,end)" with "+" for those of several segments.
function show({ segments, variables, verb }: Template): string {
  const steps = segments.map((segment) => {
    const text = { literal: "", star: "*", doubleStar: "**" }[segment.kind];
    return segment.kind === "literal" ? segment.value : text;
  });
  const names = variables.map(
    ({ fieldPath, start, end, multiSegment }) =>
      `${fieldPath.join(".")}[${start},${end})${multiSegment ? "+" : ""}`,
  );
  return [`/${steps.join("/")}`, ...names, ...(verb === undefined ? [] : [`:${verb}`])].join(" ");
}

test.for([
  ["/", "/"],
  ["/shelves", "/shelves"],
  ["/*", "/*"],
  ["/**", "/**"],
  ["/v1/**", "/v1/**"],
  ["/v1/*/b", "/v1/*/b"],
  ["/v1/{id}", "/v1/* id[1,2)"],
  ["/v1/{id=*}", "/v1/* id[1,2)"],
  ["/v1/{book.author_id}", "/v1/* book.author_id[1,2)"],
  ["/v1/{_x1}", "/v1/* _x1[1,2)"],
  ["/v1/{id=lit}", "/v1/lit id[1,2)"],
  ["/v1/{path=**}", "/v1/** path[1,2)+"],
  ["/v1/{name=shelves/*/books/*}", "/v1/shelves/*/books/* name[1,5)+"],
  ["/v1/{a}/{b}/c", "/v1/*/*/c a[1,2) b[2,3)"],
  ["/a/{x=b/**}/c", "/a/b/**/c x[1,3)+"],
  ["/a/**/b/{x=c}", "/a/**/b/c x[3,4)"],
  ["/v1/books:watch", "/v1/books :watch"],
  ["/v1/{id}:lend", "/v1/* id[1,2) :lend"],
  ["/v1/{path=**}:lend", "/v1/** path[1,2)+ :lend"],
  ["/v1/*:lend", "/v1/* :lend"],
  ["/v1/{name}:a:b", "/v1/* name[1,2) :a:b"],
  ["/v1/books:a:b", "/v1/books :a:b"],
  ["/v1/{x}:%61%2C", "/v1/* x[1,2) :a,"],
  ["/a-b_c.d~e!f$g&h'i(j)k+l,m;n=o@p", "/a-b_c.d~e!f$g&h'i(j)k+l,m;n=o@p"],
  ["/caf%C3%A9/a%20b", "/café/a b"],
] as const)("parseTemplate reads %s", ([text, expected]) => {
  const template = parseTemplate(text);

  expect(show(template)).toBe(expected);
  expect(template.text).toBe(text);
});

test.for([
  ["", 0],
  ["v1", 0],
  ["//", 1],
  ["/v1/", 4],
  ["/v1//b", 4],
  ["/v1?x=1", 3],
  ["/v1 ", 3],
  ["/v1#x", 3],
  ["/v1/a*", 5],
  ["/v1/*a", 5],
  ["/v1/***", 4],
  ["/v1/**/**", 7],
  ["/v1/**/*", 7],
  ["/v1/**/{x}", 7],
  ["/v1/**/{x=*}", 10],
  ["/v1/{x=**}/{y=**}", 14],
  ["/v1/{", 5],
  ["/v1/{}", 5],
  ["/v1/{=*}", 5],
  ["/v1/{x", 6],
  ["/v1/{x=}", 7],
  ["/v1/{x=/a}", 7],
  ["/v1/{x=a/}", 9],
  ["/v1/{x=a//b}", 9],
  ["/v1/{x={y}}", 7],
  ["/v1/{x=a:b}", 8],
  ["/v1/{x}}", 7],
  ["/v1/{x}y", 7],
  ["/v1/y{x}", 5],
  ["/v1/{1x}", 5],
  ["/v1/{x.}", 7],
  ["/v1/{.x}", 5],
  ["/v1/{x..y}", 7],
  ["/v1/{x-y}", 6],
  ["/v1/{é}", 5],
  ["/v1/{x}/{x}", 9],
  ["/v1:", 4],
  ["/v1/{x}:", 8],
  ["/v1/{x}:a:", 10],
  ["/v1/{x}::a", 8],
  ["/v1/{x}:a/b", 9],
  ["/v1/a:b/c", 7],
  ["/v1/{x}:a%3Ab", 8],
  ["/v1/{x}:%", 8],
  [`/v1:${"a".repeat(65)}`, 69],
  ["/v1/{x}:%ff", 8],
  ["/:a", 1],
  ["/v1/%", 4],
  ["/v1/%4", 4],
  ["/v1/%zz", 4],
  ["/v1/%ff", 4],
  ["/v1/café", 7],
  [`/${"a".repeat(2000)}`, 0],
] as const)("parseTemplate refuses %s at %i", ([text, position]) => {
  const attempt = () => parseTemplate(text);

  expect(attempt).toThrow(TemplateError);
  expect(attempt).toThrow(expect.objectContaining({ position }));
});

test("a TemplateError names template, position and reason", () => {
  expect(() => parseTemplate("/v1/{x={y}}")).toThrow(
    'Cannot parse template "/v1/{x={y}}" at 7: a variable cannot stand within another',
  );
});
