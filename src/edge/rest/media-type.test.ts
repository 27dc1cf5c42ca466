import { expect, test } from "vitest";
import { cpuMsOf } from "../../../test/support/cpu.ts";
import { HttpError } from "./errors.ts";
import { negotiate, requireJson } from "./media-type.ts";

test.for([
  undefined,
  "",
  "application/json",
  "Application/JSON",
  "application/json; charset=utf-8",
  "application/json;charset=UTF-8",
  'application/json; charset="Utf-8"',
  "application/json ; profile=x ;",
  'application/json; x="a;b\\"c"; charset=utf-8',
])("requireJson takes %s", (contentType) => {
  expect(() => requireJson(contentType)).not.toThrow();
});

test.for([
  "text/plain",
  "application/x-www-form-urlencoded",
  "multipart/form-data; boundary=x",
  "application/vnd.api+json",
  "application/jsonp",
  "application/*",
  "json",
  "application/json, text/plain",
  "application/json; charset",
  "application/json; charset=iso-8859-1",
  'application/json; charset="utf-16"',
  "application/json; =x",
  "application/json\u0000",
  'application/json; charset="',
  "; charset=utf-8",
])("requireJson refuses %s with 415 and a hint", (contentType) => {
  const attempt = () => requireJson(contentType);

  expect(attempt).toThrow(HttpError);
  expect(attempt).toThrow(
    expect.objectContaining({ status: 415, headers: { accept: "application/json" } }),
  );
});

test.for([
  [undefined, "json"],
  ["", "json"],
  ["*/*", "json"],
  ["application/*", "json"],
  ["application/json", "json"],
  ["APPLICATION/JSON; charset=utf-8", "json"],
  ["text/html, application/xhtml+xml, */*;q=0.8", "json"],
  ["application/problem+json", "problem"],
  ["application/json, application/problem+json", "problem"],
  ["application/problem+json, */*", "problem"],
  ["application/problem+json;q=0.1, */*", "problem"],
  ["application/json;q=0.5, application/problem+json;q=0.4", "json"],
  ["application/json;q=0.4, application/problem+json;q=0.5", "problem"],
  ["application/problem+json;q=0, */*", "json"],
  ["application/problem+json;q=0", "none"],
  ["application/json;q=0, */*", "none"],
  ["application/json;q=0.000", "none"],
  ["application/*;q=0, */*", "none"],
  ["application/*;q=0, application/json;q=0.001", "json"],
  ["*/*;q=0", "none"],
  ["text/html", "none"],
  ["text/*, image/png", "none"],
  ["application/xml", "none"],
  ["application/json;q=2", "none"],
  ["application/json;q=-1", "none"],
  ["application/json;q=0.1234", "none"],
  ["application/json;q", "none"],
  ["garbage, application/json", "json"],
  [",,application/json,,", "json"],
  ['text/plain; x="application/json,*/*"', "none"],
  ['text/plain; x="a,b", */*', "json"],
  ["application/json;q=0, application/json;q=1", "json"],
] as const)("negotiate answers Accept %s with %s", ([accept, expected]) => {
  expect(negotiate(accept)).toBe(expected);
});

test("a hostile header costs linear time", () => {
  const tookMs = cpuMsOf(() => {
    negotiate(`${'a/b;x="\\\\'.repeat(20_000)}`);
    negotiate("a/a,".repeat(50_000));
    expect(() => requireJson(`application/json;${" ".repeat(100_000)}x`)).toThrow(HttpError);
    expect(() => requireJson(`application/json;a="${"\\".repeat(100_000)}`)).toThrow(HttpError);
  });

  expect(tookMs).toBeLessThan(1000);
});
