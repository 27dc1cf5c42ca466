import { expect, test } from "vitest";
import { sandboxHeaders } from "./active-content.ts";

test.for([
  "text/html",
  "TEXT/HTML; charset=utf-8",
  " text/html",
  "image/svg+xml",
  "application/xhtml+xml;x=y",
  "application/xml",
  "text/xml",
  "text/xsl",
  "application/atom+xml",
])("%s gets a sandbox", (type) => {
  expect(sandboxHeaders(type)["content-security-policy"]).toMatch(/^sandbox;/);
});

test.for(["text/plain", "application/json", "image/png", "application/octet-stream", "text/htmlx"])(
  "%s needs none",
  (type) => {
    expect(sandboxHeaders(type)).toEqual({});
  },
);
