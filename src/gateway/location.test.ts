import { expect, test } from "vitest";
import { readLocation } from "./location.ts";

const from = {
  requestUrl: "https://up.example/base/users?page=1",
  baseUrl: "https://up.example/base",
  prefix: "/v1/call/an-api",
};

test.for([
  ["/base/users/7", "/v1/call/an-api/users/7"],
  ["users/7?a=b#c", "/v1/call/an-api/users/7?a=b#c"],
  ["?page=2", "/v1/call/an-api/users?page=2"],
  ["https://up.example/base", "/v1/call/an-api/"],
  ["https://up.example/base/x/../y", "/v1/call/an-api/y"],
  ["//up.example/base//evil.example", "/v1/call/an-api//evil.example"],
  ["https://me@up.example/base/x", "/v1/call/an-api/x"],
] as const)("%s leads on within the API", ([location, url]) => {
  expect(readLocation(location, from)).toEqual({ isInside: true, url });
});

test.for([
  ["https://evil.example/base/x", "https://evil.example/base/x"],
  ["//evil.example", "https://evil.example/"],
  ["http://up.example/base/x", "http://up.example/base/x"],
  ["https://up.example:444/base/x", "https://up.example:444/base/x"],
  ["/v1/call/dear-api/x", "https://up.example/v1/call/dear-api/x"],
  ["../other", "https://up.example/other"],
  ["/base/../x", "https://up.example/x"],
  ["/basement", "https://up.example/basement"],
  ["\\\\evil.example/base/", "https://evil.example/base/"],
] as const)("%s leads elsewhere", ([location, url]) => {
  expect(readLocation(location, from)).toEqual({ isInside: false, url });
});

test.for(["javascript:alert(1)", "http://", "https://[::"])("%s leads nowhere", (location) => {
  expect(readLocation(location, from)).toBeNull();
});

test("an API without a base path", () => {
  const root = { ...from, baseUrl: "https://up.example" };

  expect(readLocation("/x", root)).toEqual({ isInside: true, url: "/v1/call/an-api/x" });
  expect(readLocation("https://up.example", root)?.url).toBe("/v1/call/an-api/");
});
