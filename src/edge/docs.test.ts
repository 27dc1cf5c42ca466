import vm from "node:vm";
import { expect, test } from "vitest";
import openapi from "../../gen/openapi.json" with { type: "json" };
import { addPaths, type DocsReply, docsRoutes, type OpenapiDocument } from "./docs.ts";

const routes = docsRoutes({ openapi });

function get(path: string, ifNoneMatch?: string): DocsReply {
  const route = routes.find((candidate) => candidate.path === path);
  expect(route, path).toBeDefined();
  return (route as (typeof routes)[number]).respond({ ifNoneMatch });
}

test.for(["/openapi.json", "/api/v1/openapi.json"])("%s is the document", (path) => {
  const reply = get(path);

  expect(reply.status).toBe(200);
  expect(reply.headers["content-type"]).toBe("application/json");
  expect(JSON.parse(String(reply.body))).toEqual(openapi);
});

test("the document is written once", () => {
  expect(get("/openapi.json").body).toBe(get("/openapi.json").body);
});

test("a client that holds the document gets 304 without it", () => {
  const { etag } = get("/openapi.json").headers;

  for (const held of [etag, `W/${etag}`, `"other", ${etag}`, "*"]) {
    const reply = get("/openapi.json", held);
    expect(reply.status).toBe(304);
    expect(reply.body).toHaveLength(0);
    expect(reply.headers.etag).toBe(etag);
  }
  expect(get("/openapi.json", `"other"`).status).toBe(200);
});

test("another document has another ETag", () => {
  const changed = docsRoutes({ openapi: addPaths(openapi, { "/new": { get: {} } }) });

  const { etag } = changed.find(({ path }) => path === "/openapi.json")?.respond().headers ?? {};

  expect(etag).toMatch(/^"[-\w]+"$/);
  expect(etag).not.toBe(get("/openapi.json").headers.etag);
});

test.for(["/docs", "/redoc"])("%s reaches no other host and runs no inline script", (path) => {
  const { headers, body } = get(path);

  const policy = new Map(
    headers["content-security-policy"]?.split("; ").map((directive) => {
      const [name = "", ...sources] = directive.split(" ");
      return [name, sources.join(" ")];
    }),
  );
  expect(Object.fromEntries(policy)).toEqual({
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self' 'unsafe-inline'",
    "img-src": "'self' data:",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
  });
  expect(headers["x-content-type-options"]).toBe("nosniff");
  expect(headers["content-type"]).toBe("text/html; charset=utf-8");
  const html = String(body);
  expect(html).not.toMatch(/https?:|\/\/|\son\w+=|<script>/);
  expect(html.match(/<script[^>]*>[^<]/)).toBeNull();
});

test.for(["/docs", "/redoc"])("%s finds every asset that it names", (path) => {
  const html = String(get(path).body);
  const links = [...html.matchAll(/(?:src|href)="([^"]+)"/g)].map(([, link = ""]) => link);

  expect(links).toContain("/docs/assets/swagger-ui-bundle.js");
  for (const link of links) {
    const { status, headers, body } = get(link);
    expect(status).toBe(200);
    expect(body.length).toBeGreaterThan(0);
    expect(headers["x-content-type-options"]).toBe("nosniff");
  }
});

test.for([
  ["swagger-ui.css", "text/css; charset=utf-8"],
  ["swagger-ui-bundle.js", "text/javascript; charset=utf-8"],
  ["start.js", "text/javascript; charset=utf-8"],
  ["favicon-16x16.png", "image/png"],
  ["favicon-32x32.png", "image/png"],
] as const)("asset %s is %s", ([name, type]) => {
  expect(get(`/docs/assets/${name}`).headers["content-type"]).toBe(type);
});

test("nothing else of the package is served", () => {
  const served = routes.map(({ path }) => path).filter((path) => path.startsWith("/docs/"));

  expect(served).toHaveLength(5);
  expect(served.filter((path) => /package\.json|\.map|index\.html/.test(path))).toEqual([]);
});

test("the page sends no cookies and asks no validator", () => {
  let options: Record<string, unknown> = {};
  const SwaggerUIBundle = (given: Record<string, unknown>) => {
    options = given;
  };

  vm.runInNewContext(String(get("/docs/assets/start.js").body), { SwaggerUIBundle });

  expect(options).toMatchObject({
    url: "/openapi.json",
    validatorUrl: null,
    withCredentials: false,
    queryConfigEnabled: false,
    persistAuthorization: false,
  });
  const intercept = options.requestInterceptor as (request: object) => object;
  expect(intercept({ url: "/api/keys", credentials: "same-origin" })).toEqual({
    url: "/api/keys",
    credentials: "omit",
  });
});

const small: OpenapiDocument = {
  openapi: "3.1.0",
  paths: { "/b": { get: { operationId: "b" } } },
};

test("addPaths adds to a path and beside it, in order, and leaves the document as it was", () => {
  const added = addPaths(small, {
    "/b": { post: { operationId: "b2" } },
    "/a": { get: { operationId: "a" } },
  });

  expect(added.paths).toEqual({
    "/a": { get: { operationId: "a" } },
    "/b": { get: { operationId: "b" }, post: { operationId: "b2" } },
  });
  expect(Object.keys(added.paths)).toEqual(["/a", "/b"]);
  expect(Object.keys(small.paths)).toEqual(["/b"]);
});

test("addPaths refuses what is described already", () => {
  expect(() => addPaths(small, { "/b": { get: {} } })).toThrow(
    "Cannot describe GET /b: it is described already",
  );
  expect(() => addPaths(small, { "/c": { get: { operationId: "b" } } })).toThrow(
    'Cannot describe the API: operationId "b" stands twice',
  );
});
