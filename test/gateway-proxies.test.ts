import { expect, test } from "vitest";
import { startTestApp } from "./support/app.ts";
import { setUp } from "./support/calls.ts";
import { startUpstream } from "./support/upstream.ts";

test.for([
  { trusted: "127.0.0.0/8", scheme: "https", address: "192.0.2.7" },
  { trusted: "10.0.0.0/8", scheme: "http", address: "127.0.0.1" },
])("where proxies of $trusted are trusted, the upstream hears of $scheme", async (told) => {
  const { trusted, scheme, address } = told;
  await using app = await startTestApp({ TRUSTED_PROXIES: trusted });
  await using upstream = await startUpstream();
  const { call } = await setUp(app, upstream.url);

  await (
    await call("", {
      headers: { "x-forwarded-for": "192.0.2.7", "x-forwarded-proto": "https" },
    })
  ).text();

  expect(upstream.requests[0]?.headers).toMatchObject({
    "x-forwarded-for": address,
    "x-forwarded-proto": scheme,
  });
});
