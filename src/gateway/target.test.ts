import { expect, test } from "vitest";
import { endpointName, isApiName, splitCallTarget, upstreamUrl } from "./target.ts";

test.for([
  ["v1/search", "http://h/base/v1/search"],
  ["", "http://h/base/"],
  ["a%2Fb", "http://h/base/a%2Fb"],
  ["a%20b", "http://h/base/a%20b"],
  ["%252e%252e/x", "http://h/base/%252e%252e/x"],
  ["/evil.example/x", "http://h/base//evil.example/x"],
  ["a#b", "http://h/base/a%23b"],
  ["a?b", "http://h/base/a%3Fb"],
  ["...", "http://h/base/..."],
  [".well-known/x", "http://h/base/.well-known/x"],
  ["a;b=1/c", "http://h/base/a;b=1/c"],
  ["@evil.example/", "http://h/base/@evil.example/"],
] as const)("the path %s goes to %s", ([rest, href]) => {
  expect(upstreamUrl("http://h/base", rest, "")?.href).toBe(href);
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
  ".\t./x",
  ".\n./x",
  ".\r./x",
  "a\0b",
])("the path %j is refused", (rest) => {
  expect(upstreamUrl("http://h/base", rest, "")).toBeNull();
});

test("no path leads out of the base, to another host or scheme", () => {
  const pieces = [
    "..",
    ".",
    "/",
    "\\",
    "%2e",
    "%2f",
    "%5c",
    "a",
    ";",
    "@",
    ":",
    "//",
    "?",
    "#",
    "\t",
  ];
  let seed = 7;
  const random = (below: number) => {
    seed = (seed * 48_271) % 2_147_483_647;
    return seed % below;
  };
  for (let round = 0; round < 20_000; round++) {
    const rest = Array.from({ length: 1 + random(6) }, () => pieces[random(pieces.length)]).join(
      "",
    );
    const url = upstreamUrl("https://h:8443/base/", rest, "q=1");
    if (url !== null) {
      expect(url.origin, rest).toBe("https://h:8443");
      expect(url.pathname.startsWith("/base/"), rest).toBe(true);
      expect(url.search, rest).toBe("?q=1");
    }
  }
});

test.for([
  ["/v1/call/api/a/b?q=%20&r", { rest: "a/b", query: "q=%20&r" }],
  ["/v1/call/api", { rest: "", query: "" }],
  ["/v1/call/api/", { rest: "", query: "" }],
  ["/v1/call/api/a%2Fb//c/", { rest: "a%2Fb//c/", query: "" }],
  ["/v1/call/api/a?b?c", { rest: "a", query: "b?c" }],
  ["http://host:1/v1/call/api/a?b", { rest: "a", query: "b" }],
] as const)("the target %s keeps what follows the API as it was sent", ([target, parts]) => {
  expect(splitCallTarget(target)).toEqual(parts);
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
