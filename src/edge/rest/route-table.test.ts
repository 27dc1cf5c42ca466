import { expect, test } from "vitest";
import { cpuMsOf } from "../../../test/support/cpu.ts";
import {
  createRouteTable,
  pathLengthMax,
  pathSegmentsMax,
  type RouteTable,
} from "./route-table.ts";
import { parseTemplate } from "./template.ts";

// A route is written "METHOD template".
function tableOf(...routes: readonly string[]): RouteTable<number> {
  return createRouteTable(
    routes.map((text, value) => {
      const [method = "", template = ""] = text.split(" ");
      return { method, template: parseTemplate(template), name: `rpc${value}`, value };
    }),
  );
}

// The route's template and its bindings, or the kind of failure.
function look(table: RouteTable<number>, request: string): string {
  const [method = "", target = ""] = request.split(" ");
  const match = table.match(method, target);
  switch (match.kind) {
    case "match":
      return [match.route.template.text, ...match.bindings.map((text) => `<${text}>`)].join(" ");
    case "methodNotAllowed":
      return `405 ${match.allow.join(" ")}`;
    case "badPath":
      return `${match.status} ${match.reason}`;
    case "notFound":
      return "404";
  }
}

const bookstore = tableOf(
  "GET /",
  "GET /v1/books",
  "POST /v1/books",
  "GET /v1/books/{id}",
  "DELETE /v1/books/{id}",
  "GET /v1/books/best",
  "POST /v1/books/{id}:lend",
  "POST /v1/books/{id}:lend:twice",
  "GET /v1/books:watch",
  "GET /v1/{name=shelves/*/books/*}",
  "GET /v1/{name=shelves/*}/books/all",
  "GET /v1/files/{path=**}",
  "POST /v1/files/{path=**}:scan",
  "GET /v1/files/{path=**}/meta",
  "GET /v1/files/{path=**}/meta/all",
  "GET /v1/files/index",
  "GET /v2/{a=x/**}/y/{b=z}",
  "GET /caf%C3%A9/{id}",
);

test.for([
  ["GET /", "/"],
  ["GET http://h", "/"],
  ["GET http://h/v1/books/1?x=/y", "/v1/books/{id} <1>"],
  ["GET /v1/books", "/v1/books"],
  ["GET /v1/books?a=b/c", "/v1/books"],
  ["POST /v1/books", "/v1/books"],
  ["GET /v1/books/", "404"],
  ["GET /v1//books", "404"],
  ["GET //", "404"],
  ["GET /v1", "404"],
  ["GET /V1/books", "404"],
  ["GET /v1/books/1", "/v1/books/{id} <1>"],
  ["GET /v1/books/1/", "404"],
  ["GET /v1/books/1/2", "404"],
  ["GET /v1/books/best", "/v1/books/best"],
  ["GET /v1/books/b%65st", "/v1/books/best"],
  ["DELETE /v1/books/best", "/v1/books/{id} <best>"],
  ["GET /v1/books/a%2Fb", "/v1/books/{id} <a/b>"],
  ["GET /v1/books/a+b%20c", "/v1/books/{id} <a+b c>"],
  ["GET /v1/books/..", "/v1/books/{id} <..>"],
  ["GET /v1/b%6Foks", "/v1/books"],
  ["GET /v1/%62ooks:watch", "/v1/books:watch"],
  ["POST /v1/books/7:lend", "/v1/books/{id}:lend <7>"],
  ["POST /v1/books/7:lend:twice", "/v1/books/{id}:lend:twice <7>"],
  ["POST /v1/books/a:b:lend", "/v1/books/{id}:lend <a:b>"],
  ["POST /v1/books/:lend", "405 DELETE GET HEAD OPTIONS"],
  ["GET /v1/books/7:lend", "/v1/books/{id} <7:lend>"],
  ["GET /v1/books/a:b", "/v1/books/{id} <a:b>"],
  ["POST /v1/books/7%3Alend", "405 DELETE GET HEAD OPTIONS"],
  ["DELETE /v1/books/7%3Alend", "/v1/books/{id} <7:lend>"],
  ["GET /v1/books:watch", "/v1/books:watch"],
  ["GET /v1/books:other", "404"],
  ["GET /v1/books%3Awatch", "404"],
  ["GET /v1/shelves/1/books/2", "/v1/{name=shelves/*/books/*} <shelves/1/books/2>"],
  ["GET /v1/shelves/1/books/all", "/v1/{name=shelves/*}/books/all <shelves/1>"],
  ["GET /v1/shelves/a%2Fb/books/c%20d", "/v1/{name=shelves/*/books/*} <shelves/a%2Fb/books/c d>"],
  ["GET /v1/shelves//books/2", "404"],
  ["GET /v1/files", "/v1/files/{path=**} <>"],
  ["GET /v1/files/", "/v1/files/{path=**} <>"],
  ["GET /v1/files/a", "/v1/files/{path=**} <a>"],
  ["GET /v1/files/a/b/c", "/v1/files/{path=**} <a/b/c>"],
  ["GET /v1/files/a/b/", "/v1/files/{path=**} <a/b>"],
  ["GET /v1/files/a//b", "/v1/files/{path=**} <a//b>"],
  ["GET /v1/files/a%2fb%20/c", "/v1/files/{path=**} <a%2fb /c>"],
  ["GET /v1/files/a:b", "/v1/files/{path=**} <a:b>"],
  ["GET /v1/files/a:scan", "/v1/files/{path=**} <a:scan>"],
  ["GET /v1/files/index", "/v1/files/index"],
  ["POST /v1/files/a/b:scan", "/v1/files/{path=**}:scan <a/b>"],
  ["POST /v1/files/a/:scan", "/v1/files/{path=**}:scan <a>"],
  ["POST /v1/files/:scan", "/v1/files/{path=**}:scan <>"],
  ["POST /v1/files:scan", "/v1/files/{path=**}:scan <>"],
  ["GET /v1/files/meta", "/v1/files/{path=**}/meta <>"],
  ["GET /v1/files/a/meta", "/v1/files/{path=**}/meta <a>"],
  ["GET /v1/files/a/b/meta/all", "/v1/files/{path=**}/meta/all <a/b>"],
  ["GET /v1/files/a/meta/", "/v1/files/{path=**} <a/meta>"],
  ["GET /v2/x/y/z", "/v2/{a=x/**}/y/{b=z} <x> <z>"],
  ["GET /v2/x/1/2/y/z", "/v2/{a=x/**}/y/{b=z} <x/1/2> <z>"],
  ["GET /v2/x/1/2/y", "404"],
  ["GET /caf%C3%A9/1", "/caf%C3%A9/{id} <1>"],
  ["GET /caf%c3%a9/1", "/caf%C3%A9/{id} <1>"],
  ["HEAD /v1/books/1", "/v1/books/{id} <1>"],
  ["HEAD /v1/books/7:lend", "/v1/books/{id} <7:lend>"],
  ["PUT /v1/books", "405 GET HEAD OPTIONS POST"],
  ["PUT /v1/books/best", "405 DELETE GET HEAD OPTIONS"],
  ["PUT /v1/books/1:lend", "405 DELETE GET HEAD OPTIONS POST"],
  ["OPTIONS /v1/books", "405 GET HEAD OPTIONS POST"],
  ["GET /v1/books/%", '400 "id" has a broken percent escape'],
  ["GET /v1/books/%ff", '400 "id" is not UTF-8'],
  ["GET /v1/%/1", "404"],
  ["GET /v1/files/a/%2", '400 "path" has a broken percent escape'],
  ["OPTIONS *", '400 does not start with "/"'],
  ["GET v1/books", '400 does not start with "/"'],
] as const)("%s leads to %s", ([request, expected]) => {
  expect(look(bookstore, request)).toBe(expected);
});

test("a literal path of another method does not hide a variable one", () => {
  const table = tableOf("GET /v1/{id}", "POST /v1/foo", "PUT /v1/{path=**}");

  expect(look(table, "GET /v1/foo")).toBe("/v1/{id} <foo>");
  expect(look(table, "POST /v1/foo")).toBe("/v1/foo");
  expect(look(table, "PUT /v1/foo")).toBe("/v1/{path=**} <foo>");
  expect(look(table, "PATCH /v1/foo")).toBe("405 GET HEAD OPTIONS POST PUT");
});

test("matching goes back when a literal branch leads nowhere", () => {
  const table = tableOf("GET /a/b/c/d", "GET /a/*/c/e", "GET /{x=**}/f", "GET /a/{x=**}");

  expect(look(table, "GET /a/b/c/d")).toBe("/a/b/c/d");
  expect(look(table, "GET /a/b/c/e")).toBe("/a/*/c/e");
  expect(look(table, "GET /a/b/c/f")).toBe("/a/{x=**} <b/c/f>");
  expect(look(table, "GET /b/b/c/f")).toBe("/{x=**}/f <b/b/c>");
});

test("a verb that only other routes have is data", () => {
  const table = tableOf("POST /v1/books:lend", "GET /v1/{path=**}", "POST /v1/pens/{id}");

  expect(look(table, "POST /v1/pens/a:lend")).toBe("/v1/pens/{id} <a:lend>");
  expect(look(table, "GET /v1/books:lend")).toBe("/v1/{path=**} <books:lend>");
});

test("of two fitting verbs the longer one wins", () => {
  const table = tableOf("GET /v1/{id}:b", "GET /v1/{id}:a:b");

  expect(look(table, "GET /v1/x:a:b")).toBe("/v1/{id}:a:b <x>");
  expect(look(table, "GET /v1/x:c:b")).toBe("/v1/{id}:b <x:c>");
});

test("a verb is compared decoded, but an escaped colon is data", () => {
  const table = tableOf("GET /v1/{id}:a%2Cb", "GET /v1/{id}:a:b");

  expect(look(table, "GET /v1/x:a,b")).toBe("/v1/{id}:a%2Cb <x>");
  expect(look(table, "GET /v1/x:%61%2cb")).toBe("/v1/{id}:a%2Cb <x>");
  expect(look(table, "GET /v1/x:a:%62")).toBe("/v1/{id}:a:b <x>");
  expect(look(table, "GET /v1/x:a%3Ab")).toBe("404");
});

test("a fitting verb wins over a more specific path without one, unless its method is another", () => {
  const table = tableOf(
    "GET /v1/{path=**}:go",
    "GET /v1/things/{id}",
    "GET /v1/things/{id}:go",
    "POST /v1/things/{id}",
    "GET /v1/pens/{id}",
  );

  expect(look(table, "GET /v1/things/7:go")).toBe("/v1/things/{id}:go <7>");
  expect(look(table, "GET /v1/other/7:go")).toBe("/v1/{path=**}:go <other/7>");
  expect(look(table, "GET /v1/pens/7:go")).toBe("/v1/{path=**}:go <pens/7>");
  expect(look(table, "POST /v1/things/7:go")).toBe("/v1/things/{id} <7:go>");
  expect(look(table, "GET /v1/pens/7:other")).toBe("/v1/pens/{id} <7:other>");
});

test("a method of its own wins over any method, which also claims OPTIONS and HEAD", () => {
  const table = tableOf("* /a", "GET /a", "* /b", "REPORT /c", "HEAD /d", "GET /d");

  expect(table.match("GET", "/a")).toMatchObject({ route: { value: 1 } });
  expect(table.match("HEAD", "/a")).toMatchObject({ route: { value: 1 } });
  expect(table.match("DELETE", "/a")).toMatchObject({ route: { value: 0 } });
  expect(table.match("OPTIONS", "/b")).toMatchObject({ route: { value: 2 } });
  expect(look(table, "GET /c")).toBe("405 OPTIONS REPORT");
  expect(table.match("REPORT", "/c")).toMatchObject({ route: { value: 3 } });
  expect(table.match("HEAD", "/d")).toMatchObject({ route: { value: 4 } });
  expect(look(table, "report /c")).toBe("405 OPTIONS REPORT");
});

test.for([
  ["GET /v1/{id}", "GET /v1/{name}"],
  ["GET /v1/{id}", "GET /v1/*"],
  ["GET /v1/{id=a/*}", "GET /v1/a/{id}"],
  ["GET /v1/a", "GET /v1/%61"],
  ["GET /v1/{x=**}", "GET /v1/**"],
  ["GET /{x=a/**}/b", "GET /a/**/{y=b}"],
  ["POST /v1/{id}:go", "POST /v1/{name}:go"],
  ["* /v1", "* /v1"],
  ["GET /", "GET /"],
] as const)("%s and %s are refused together, naming both", ([one, other]) => {
  expect(() => tableOf(one, other)).toThrow(
    `Cannot add route ${other.replace(" ", ' "')}" of rpc1: "${one.split(" ")[1]}" of rpc0`,
  );
});

test.for([
  ["GET /v1/{id}", "POST /v1/{id}"],
  ["GET /v1/{id}", "GET /v1/{id}:go"],
  ["GET /v1/{id}", "GET /v1/{id=**}"],
  ["GET /v1/a%2Fb", "GET /v1/a/b"],
  ["GET /**/a%2Fb", "GET /**/a/b"],
  ["GET /v1", "* /v1"],
] as const)("%s and %s live together", ([one, other]) => {
  expect(() => tableOf(one, other)).not.toThrow();
});

test("paths that are too long or too deep are refused", () => {
  const table = tableOf("GET /{path=**}");

  expect(look(table, `GET /${"a".repeat(pathLengthMax)}`)).toMatch(/^414 is longer/);
  expect(look(table, `GET ${"/a".repeat(pathSegmentsMax + 1)}`)).toMatch(/^414 has more/);
  expect(look(table, `GET ${"/a".repeat(pathSegmentsMax)}`)).toMatch(/^\/\{path=\*\*\} <a\/a/);
  expect(look(table, `GET /?${"a".repeat(pathLengthMax)}`)).toBe("/{path=**} <>");
});

test("names of Object's own members are ordinary segments and methods", () => {
  const table = tableOf("GET /a", "GET /v1/{id}:toString");

  for (const name of ["__proto__", "constructor", "toString", "hasOwnProperty"]) {
    expect(look(table, `GET /${name}`)).toBe("404");
    expect(look(table, `${name} /a`)).toBe("405 GET HEAD OPTIONS");
    expect(look(table, `GET /v1/x:${name}`)).toBe(
      name === "toString" ? "/v1/{id}:toString <x>" : "404",
    );
  }
});

// Every node of this table fits every prefix of the path, and nothing fits the whole of it.
// Backtracking over paths rather than nodes would take 2^16 steps a look-up.
test("a hostile path costs no more than the table is large", () => {
  const routes: string[] = [];
  for (let depth = 1; depth <= 16; depth++) {
    routes.push(`GET ${"/a".repeat(depth)}/end`, `GET ${"/*".repeat(depth)}/end`);
    routes.push(`GET ${"/a".repeat(depth)}/**/end`, `GET ${"/*".repeat(depth)}/**/x/end`);
    routes.push(
      `POST ${"/a".repeat(depth)}/**:v${depth}`,
      `POST ${"/*".repeat(depth)}/**:v${depth}`,
    );
  }
  const table = tableOf(...routes);
  const target = `${"/a".repeat(pathSegmentsMax - 1)}/${":v1".repeat(2000)}`;

  const tookMs = cpuMsOf(() => {
    for (let round = 0; round < 100; round++) {
      expect(table.match("GET", target).kind).toBe("methodNotAllowed");
    }
  });

  expect(tookMs).toBeLessThan(2000);
});
