import { expect, test } from "vitest";
import { endpointName, isApiName, isPassable, pathOfTarget } from "./target.ts";

test.for([
  "v1/search",
  "",
  "a%2Fb",
  "a%20b",
  "%252e%252e/x",
  "/evil.example/x",
  "a%23b",
  "...",
  ".well-known/x",
  "a;b=1/c",
  "@evil.example/",
  "caf\xe9",
])("the path %s is passed on as it was sent", (rest) => {
  expect(isPassable(`/${rest}`, "q=1")).toBe(true);
});

test.for([
  "..",
  "../x",
  "a/../../x",
  "./x",
  "a/.",
  "%2e%2e/x",
  "%2E%2E/x",
  ".%2e/x",
  "a/%2e/x",
  "..\\x",
  "a\\..\\x",
  "..%2fx",
  "a%2f..%2fx",
  "a%5c..%5cx",
  "..;/x",
  "..;a=b/x",
  "..%3bx/x",
  "a#b",
  "a b",
  "\u0100",
  ".\t./x",
  ".\n./x",
  ".\r./x",
  "a\0b",
])("the path %j is refused", (rest) => {
  expect(isPassable(`/${rest}`, "")).toBe(false);
});

test.for(["a#b", "a b", "a\r\nb"])("the query %j is refused", (query) => {
  expect(isPassable("/a", query)).toBe(false);
});

test("no path leads out of the base, to another host or scheme", () => {
  const pieces = ["..", ".", "/", "\\", "%2e", "%2f", "%5c", "a", ";", "@", ":", "//", "#", "\t"];
  let seed = 7;
  const random = (below: number) => {
    seed = (seed * 48_271) % 2_147_483_647;
    return seed % below;
  };
  for (let round = 0; round < 20_000; round++) {
    const rest = Array.from({ length: 1 + random(6) }, () => pieces[random(pieces.length)]).join(
      "",
    );
    if (isPassable(`/${rest}`, "q=1")) {
      const url = new URL(`https://h:8443/base/${rest}?q=1`);
      expect(url.origin, rest).toBe("https://h:8443");
      expect(url.pathname.startsWith("/base/"), rest).toBe(true);
      expect(url.search.endsWith("?q=1"), rest).toBe(true);
    }
  }
});

test.for([
  ["/v1/call/api/a/b?q=%20&r", "/a/b"],
  ["/v1/call/api", "/"],
  ["/v1/call/api/", "/"],
  ["/v1/call/api?a/b", "/"],
  ["/v1/call/api/a%2Fb//c/", "/a%2Fb//c/"],
  ["/v1/call/api/a?b?c/d", "/a"],
  ["http://host:1/v1/call/api/a?b", "/a"],
  ["http://host:1/v1/call/api", "/"],
] as const)("of the target %s the path %s is for the upstream", ([target, path]) => {
  expect(pathOfTarget(target)).toBe(path);
});

test.for([
  ["GET", "v1/search", "GET /v1/search"],
  ["POST", "users/42/orders", "POST /users/*/orders"],
  ["GET", "users/3f2c-aa/x", "GET /users/*/x"],
  ["GET", "a/b/c/d/e/f/g/h", "GET /a/b/c/d/e/f"],
  ["GET", "x".repeat(33), "GET /*"],
  ["GET", "a%20b", "GET /*"],
  ["GET", "", "GET /"],
] as const)("%s %s is counted as %s", ([method, path, name]) => {
  expect(endpointName(method, path)).toBe(name);
});

test("nothing but an id or a slug is looked up", () => {
  expect(isApiName("api_01k805gh12kgqtj91a5mt623s7")).toBe(true);
  expect(isApiName("weather-2")).toBe(true);
  for (const text of ["", "\0", "a b", "A", "a/b", "x".repeat(64), "'"]) {
    expect(isApiName(text), text).toBe(false);
  }
});
