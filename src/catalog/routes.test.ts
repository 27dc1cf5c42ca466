import fc from "fast-check";
import { expect, test } from "vitest";
import { compileRoutes, RouteError, type RouteRule } from "./routes.ts";

const routesOf = (...texts: string[]): RouteRule<string>[] =>
  texts.map((text) => {
    const [methods = "", path = ""] = text.split(" ");
    return { methods: methods === "*" ? [] : methods.split(","), path, value: text };
  });

/** The text of the route that a call is matched with, else the kind of the answer. */
function matched(routes: readonly RouteRule<string>[], method: string, path: string): string {
  const match = compileRoutes(routes).match(method, path);
  return match.kind === "match" ? match.value : match.kind;
}

const table = routesOf(
  "GET /v1/current",
  "GET /v1/{id}",
  "POST /v1/{id}",
  "* /v1/{id}/parts/{part}",
  "GET,DELETE /files/{rest=**}",
  "GET /files/index",
  "GET /",
);

test.for([
  ["GET", "/v1/current", "GET /v1/current"],
  ["GET", "/v1/currentX", "GET /v1/{id}"],
  ["GET", "/v1/curren", "GET /v1/{id}"],
  ["HEAD", "/v1/current", "GET /v1/current"],
  ["POST", "/v1/current", "POST /v1/{id}"],
  ["GET", "/v1/%63urrent", "GET /v1/current"],
  ["GET", "/v1/a%20b", "GET /v1/{id}"],
  ["GET", "/v1/caf%C3%A9", "GET /v1/{id}"],
  ["PURGE", "/v1/a/parts/b", "* /v1/{id}/parts/{part}"],
  ["GET", "/v1/a/parts", "unknown"],
  ["GET", "/v1/a/parts/b/c", "unknown"],
  ["GET", "/v1", "unknown"],
  ["GET", "/files", "GET,DELETE /files/{rest=**}"],
  ["DELETE", "/files/a/b/c", "GET,DELETE /files/{rest=**}"],
  ["GET", "/files/index", "GET /files/index"],
  ["DELETE", "/files/index", "GET,DELETE /files/{rest=**}"],
  ["GET", "/files/index/x", "GET,DELETE /files/{rest=**}"],
  ["PUT", "/files/index", "method"],
  ["OPTIONS", "/v1/current", "method"],
  ["GET", "/", "GET /"],
])("%s %s is %s", ([method = "", path = "", expected]) => {
  expect(matched(table, method, path)).toBe(expected);
});

// Each of these could be `/v1/current`, or something else than it seems, to a server.
test.for([
  "/v1/current/",
  "/v1//current",
  "//v1/current",
  "/v1/x%2fcurrent",
  "/v1/x%2Fcurrent",
  "/v1/x%5ccurrent",
  "/v1/x\\current",
  "/v1/current;x=1",
  "/v1/current%3bx",
  "/v1/./current",
  "/v1/%2e%2e/current",
  "/v1/current%00",
  "/v1/current%0a",
  "/v1/%2563urrent",
  "/v1/%zz",
  "/v1/%",
  "/v1/%ff",
  "/v1/Current",
  "/V1/current",
  "/FILES/index",
  "",
])("a path that servers read in different ways matches nothing: %j", (path) => {
  expect(matched(table, "GET", path)).toBe("ambiguous");
});

test("a path without a route of its method says which methods there are", () => {
  expect(compileRoutes(table).match("PATCH", "/v1/current")).toEqual({
    kind: "method",
    allow: ["GET", "HEAD", "POST"],
  });
});

test("an endpoint is named by the call's method and the route's template", () => {
  const { match } = compileRoutes(table);

  expect(match("HEAD", "/v1/7")).toMatchObject({ endpoint: "HEAD /v1/{id}" });
  expect(match("PUT", "/v1/7/parts/8")).toMatchObject({ endpoint: "PUT /v1/{id}/parts/{part}" });
});

test.for([
  ["v1", 'must begin with "/"'],
  ["/v1/", '"" is no segment'],
  ["/v1//x", '"" is no segment'],
  ["/a/../b", '".." is no segment'],
  ["/a%20b", '"a%20b" is no segment'],
  ["/a;b", '"a;b" is no segment'],
  ["/{a}x", '"{a}x" is no segment'],
  ["/{a=x}", '"{a=x}" is no segment'],
  ["/{a}/{a}", '"a" stands in it twice'],
  ["/{a=**}/b", 'nothing may follow "{a=**}"'],
  ["/a".repeat(17), "must have at most 16 segments"],
])("template %s is refused: %s", ([path = "", reason]) => {
  const compile = () => compileRoutes([{ methods: [], path, value: 1 }]);

  expect(compile).toThrow(RouteError);
  expect(compile).toThrow(reason);
});

test.for([
  [["GET /a", "POST,GET /a"], 1],
  [["* /a", "GET /b", "* /a"], 2],
  [["GET /{a}", "GET /{b}"], 1],
  [["GET /x/{a=**}", "GET /x/{b=**}"], 1],
] as const)("two routes that are the same are refused: %j", ([texts, index]) => {
  expect(() => compileRoutes(routesOf(...texts))).toThrow(expect.objectContaining({ index }));
});

// The slow way: every route is tried, and of those that fit the most precise counts.
function slowly(routes: readonly RouteRule<string>[], method: string, path: string): string {
  const segments = path === "/" ? [] : path.slice(1).split("/");
  const rankOf = ({ path: template }: RouteRule<string>) => {
    const parts = template === "/" ? [] : template.slice(1).split("/");
    const hasRest = parts.at(-1)?.endsWith("=**}") === true;
    const fixed = hasRest ? parts.slice(0, -1) : parts;
    const isLong = hasRest ? segments.length >= fixed.length : segments.length === fixed.length;
    const fits = fixed.every((part, index) => part.startsWith("{") || part === segments[index]);
    const ranks = fixed.map((part) => (part.startsWith("{") ? "1" : "0"));
    return isLong && fits ? `${ranks.join("")}${hasRest ? "2" : ""}` : null;
  };
  const fitting = routes
    .map((route) => ({ route, rank: rankOf(route) }))
    .flatMap(({ route, rank }) => (rank === null ? [] : [{ route, rank }]))
    .sort((a, b) => (a.rank < b.rank ? -1 : 1));
  const groups = [...new Set(fitting.map(({ rank }) => rank))];
  for (const group of groups) {
    const same = fitting.filter(({ rank }) => rank === group).map(({ route }) => route);
    const own = same.find(({ methods }) => methods.includes(method));
    const found = own ?? same.find(({ methods }) => methods.length === 0);
    if (found !== undefined) {
      return found.value;
    }
  }
  return fitting.length === 0 ? "unknown" : "method";
}

test("a call is matched as by trying all routes", () => {
  const segment = fc.constantFrom("a", "b", "{x}");
  const path = fc
    .tuple(fc.array(segment, { maxLength: 4 }), fc.boolean())
    .map(([parts, hasRest]) => {
      const named = parts.map((part, index) => (part === "{x}" ? `{x${index}}` : part));
      return `/${[...named, ...(hasRest ? ["{rest=**}"] : [])].join("/")}`;
    });
  const methods = fc.constantFrom("*", "GET", "POST", "GET,POST");
  const routes = fc.uniqueArray(fc.tuple(methods, path), {
    maxLength: 12,
    selector: ([, template]) => template,
  });
  const asked = fc.array(fc.constantFrom("a", "b", "c"), { maxLength: 5 });

  fc.assert(
    fc.property(routes, fc.constantFrom("GET", "POST", "PUT"), asked, (pairs, method, segments) => {
      const made = routesOf(...pairs.map((pair) => pair.join(" ")));
      const target = `/${segments.join("/")}`;

      expect(matched(made, method, target)).toBe(slowly(made, method, target));
    }),
    { numRuns: 1_000 },
  );
});
