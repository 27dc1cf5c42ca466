import { describe, expect, test } from "vitest";
import { createRouteTable } from "./route-table.ts";
import { parseTemplate, TemplateError } from "./template.ts";

// Cases that Envoy's transcoder, Vanguard and grpc-gateway test as well. Where they disagree, the
// title says whom this one follows.

function tableOf(...templates: readonly string[]) {
  const routes = templates.map((text) => ({
    method: "GET",
    template: parseTemplate(text),
    name: text,
    value: text,
  }));
  const table = createRouteTable(routes);
  return (path: string) => {
    const match = table.match("GET", path);
    return match.kind === "match" ? [match.route.value, ...match.bindings].join(" ") : match.kind;
  };
}

test.for([
  ["", "//", "/{}", "/a/", "/a//b", ":verb", "/:verb", "/a/:verb"],
  [":", "/:", "/*:", "/**:", "/{var}:", "/a/b/:", "/a/b/*:", "/a/b/**:", "/a/b/{var}:"],
  ["/a/{", "/a/{var", "/a/{var.", "/a/{x=var:verb}", "/a/{var=/b}", "/{var=a/{nested=b}}"],
  ["a", "{x}", "{x=/a}", "a/b", "a/b/{x}", "a/{x}/b:verb"],
  ["/a{x}", "/{x}a", "/a{x}b", "/{x}a{y}", "/a/b{x}/s", "/a/{x}b/s", "/a/{x}b{y}/s"],
])("none of %j is a template", (texts) => {
  for (const text of texts) {
    expect(() => parseTemplate(text), text).toThrow(TemplateError);
  }
});

test.for([
  "/foo/bob/{book_id={author}/{isbn}/*}/details",
  "/a/**/*",
  "/a/{x=**}/{y=**}",
  "/v1/{x}/{x}",
  "/v1/a*",
])("%s is refused, though some take it", (text) => {
  expect(() => parseTemplate(text)).toThrow(TemplateError);
});

describe("a path finds its template", () => {
  const find = tableOf(
    "/a/{x}/c/d/e",
    "/{x=a/*}/b/{y=*}/c",
    "/a/{x=b/*}/{y=d/**}",
    "/alpha/{x=*}/beta/{y=**}/gamma",
    "/{x=*}/a",
    "/{x=**}/a/b",
    "/a/b/{x=*}",
    "/a/b/c/{x=**}",
    "/{x=*}/d/e/f/{y=**}",
  );

  test.for([
    ["/a/book/c/d/e", "/a/{x}/c/d/e book"],
    ["/a/hello/b/world/c", "/{x=a/*}/b/{y=*}/c a/hello world"],
    ["/a/b/zoo/d/animal/tiger", "/a/{x=b/*}/{y=d/**} b/zoo d/animal/tiger"],
    ["/alpha/dog/beta/eat/bones/gamma", "/alpha/{x=*}/beta/{y=**}/gamma dog eat/bones"],
    ["/foo/a", "/{x=*}/a foo"],
    ["/foo/bar/a/b", "/{x=**}/a/b foo/bar"],
    ["/a/b/foo", "/a/b/{x=*} foo"],
    ["/a/b/c/foo/bar/baz", "/a/b/c/{x=**} foo/bar/baz"],
    ["/foo/d/e/f/bar/baz", "/{x=*}/d/e/f/{y=**} foo bar/baz"],
  ] as const)("%s", ([path, found]) => {
    expect(find(path)).toBe(found);
  });
});

test("a wildcard at the root takes the root", () => {
  const find = tableOf("/**");

  expect(["/", "/a", "/a/"].map(find)).toEqual(["/**", "/**", "/**"]);
});

test("** takes any number of segments, * exactly one", () => {
  const find = tableOf("/a/**", "/b/*", "/c/*/d/**", "/c/*/d/e", "/c/f/d/e", "/");

  expect(["/a/b", "/a/b/c", "/b/c"].map(find)).toEqual(["/a/**", "/a/**", "/b/*"]);
  expect(["/c/u/d/v", "/c/v/d/w/x"].map(find)).toEqual(["/c/*/d/**", "/c/*/d/**"]);
  expect(["/c/x/y/d/z", "/c//v/d/w/x"].map(find)).toEqual(["notFound", "notFound"]);
  expect(["/c/x/d/e", "/c/f/d/e", "/"].map(find)).toEqual(["/c/*/d/e", "/c/f/d/e", "/"]);
});

test("* takes no empty segment, though all the others give it one", () => {
  const find = tableOf("/v1/shelves/{id}", "/v1/shelves/{id}:go");

  expect(find("/v1/shelves/")).toBe("notFound");
  expect(find("/v1/shelves/:go")).toBe("/v1/shelves/{id} :go");
});

test("a fitting verb wins, as Envoy and Vanguard have it, and any other is data", () => {
  const find = tableOf("/person", "/person/{id=*}", "/{x=**}:verb");

  expect(find("/person:verb")).toBe("/{x=**}:verb person");
  expect(find("/person/jason:verb")).toBe("/{x=**}:verb person/jason");
  expect(find("/animal/cat:verb")).toBe("/{x=**}:verb animal/cat");
  expect(find("/person")).toBe("/person");
  expect(find("/person/jason:other")).toBe("/person/{id=*} jason:other");
  expect(["/animal", "/person:other", "/animal/cat:other"].map(find)).toEqual(
    Array(3).fill("notFound"),
  );
});

test("a colon in an id does not hide the route, though Vanguard splits at the first one", () => {
  const find = tableOf("/v1/{id}", "/v1/{id}:go");

  expect(find("/v1/urn:isbn:1")).toBe("/v1/{id} urn:isbn:1");
  expect(find("/v1/urn:isbn:1:go")).toBe("/v1/{id}:go urn:isbn:1");
});

test("every ASCII character may come escaped, in either case", () => {
  const find = tableOf("/{x}");

  for (let code = 0; code < 0x80; code++) {
    const hex = code.toString(16).padStart(2, "0");
    const wanted = `/{x} ${String.fromCharCode(code)}`;
    expect([find(`/%${hex}`), find(`/%${hex.toUpperCase()}`)]).toEqual([wanted, wanted]);
  }
});

test("one segment is decoded whole, several but for the slash, as Vanguard has it", () => {
  const find = tableOf("/a/{x=*}/{y=**}/c");
  const reserved = "%21%23%24%26%27%28%29%2A%2B%2C%2F%3A%3B%3D%3F%40%5B%5D";

  expect(find(`/a/${reserved}/${reserved}/c`)).toBe(
    "/a/{x=*}/{y=**}/c !#$&'()*+,/:;=?@[] !#$&'()*+,%2F:;=?@[]",
  );
});
