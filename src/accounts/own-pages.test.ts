import { createHmac } from "node:crypto";
import { expect, test } from "vitest";
import { signedValue } from "./cookie-reader.ts";
import { isFromOwnPage, isJson } from "./own-pages.ts";

const own = new Set(["https://callora.example"]);

test.for([
  [{}, undefined],
  [{ origin: "https://callora.example" }, true],
  [{ origin: "https://callora.example", "sec-fetch-site": "cross-site" }, true],
  [{ origin: "https://callora.example:444" }, false],
  [{ origin: "http://callora.example" }, false],
  [{ origin: "https://callora.example.evil.example" }, false],
  [{ origin: "null", "sec-fetch-site": "same-origin" }, false],
  [{ origin: "", "sec-fetch-site": "same-origin" }, false],
  [{ "sec-fetch-site": "same-origin" }, true],
  [{ "sec-fetch-site": "same-site" }, false],
  [{ "sec-fetch-site": "cross-site" }, false],
  [{ "sec-fetch-site": "none" }, false],
] as const)("%j is from an own page: %j", ([headers, isOwn]) => {
  expect(isFromOwnPage(new Headers(headers), own)).toBe(isOwn);
});

test.for([
  ["application/json", true],
  ["Application/JSON; charset=utf-8", true],
  ["application/connect+json", true],
  ["application/jsonp", false],
  ["text/json", false],
  ["text/plain; application/json", false],
  ["application/proto", false],
  ["", false],
] as const)("%j is JSON: %j", ([type, expected]) => {
  expect(isJson(new Headers({ "content-type": type }))).toBe(expected);
});

const sign = (value: string, secret = "s") =>
  `${value}.${createHmac("sha256", secret).update(value).digest("base64")}`;

test("a signed cookie is read among others; one that is not ours is not", () => {
  const ours = encodeURIComponent(sign("token"));

  expect(signedValue(`a=b; n=${ours}; c=d`, "n", "s")).toBe("token");
  for (const cookies of [
    `nn=${ours}`,
    `n=${encodeURIComponent(sign("token", "t"))}`,
    `n=${ours.replace("token", "nekot")}`,
    "n=token",
    "n=token.",
    "n=.",
    "n=%",
    "n=",
    "",
  ]) {
    expect(signedValue(cookies, "n", "s"), cookies).toBeUndefined();
  }
});
