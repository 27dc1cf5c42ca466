import { expect } from "vitest";
import { SecretService } from "../gen/callora/credentials/v1/secret_service_pb.ts";
import { CreditService } from "../gen/callora/credits/v1/credit_service_pb.ts";
import { Mode } from "../gen/callora/keys/v1/key_pb.ts";
import { must } from "./support/app.ts";
import { paid, price, setUp } from "./support/calls.ts";
import { test } from "./support/test.ts";
import { startUpstream } from "./support/upstream.ts";

const credential = { provider: "acme", field: "token", header: "x-token", prefix: "" };

test("a test call without a test upstream is echoed: nothing of it leaves the gateway", async ({
  app,
}) => {
  await using upstream = await startUpstream();
  const settings = { credential };
  const made = await setUp(app, upstream.url, { mode: Mode.TEST, settings });
  const { call, secret, developer, consumer, events } = made;
  await app
    .client(SecretService, developer.token)
    .putSecret({ provider: "acme", keys: { token: "for live calls" } });
  await app.grant(consumer.accountId, 5n * price);
  const credits = app.client(CreditService, consumer.token);
  const liveBefore = must((await credits.getBalance({})).balance);

  const answer = await call("a/b?x=1", {
    method: "POST",
    headers: { "content-type": "text/plain", cookie: "a=b", "x-own": "1" },
    body: "hello",
  });
  const text = await answer.text();

  expect(answer.status).toBe(200);
  expect(answer.headers.get("x-callora-mode")).toBe("test");
  expect(JSON.parse(text)).toMatchObject({
    ...{ echo: true, method: "POST", path: "/a/b", query: "x=1" },
    ...{ headers: { "content-type": "text/plain", "x-own": "1" }, body: "hello" },
  });
  expect(text).not.toContain(secret);
  expect(text).not.toContain("for live calls");
  expect(text).not.toContain("cookie");
  expect(await events()).toEqual(paid(200));
  expect(upstream.requests).toEqual([]);
  await app.applied();
  const liveAfter = must((await credits.getBalance({})).balance);
  expect(liveAfter.availableNanos).toBe(liveBefore.availableNanos);
});

test("a test call reaches the test upstream alone, without the live secret", async ({ app }) => {
  await using live = await startUpstream();
  await using tried = await startUpstream();
  const settings = { credential, testUpstreams: [{ url: `${tried.url}/t`, weight: 1 }] };
  const { call, developer, events } = await setUp(app, live.url, { mode: Mode.TEST, settings });
  await app
    .client(SecretService, developer.token)
    .putSecret({ provider: "acme", keys: { token: "for live calls" } });

  const answer = await call("x", { headers: { "x-token": "own" } });

  expect(answer.status).toBe(200);
  expect(live.requests).toEqual([]);
  expect(tried.requests).toMatchObject([{ method: "GET", url: "/t/x" }]);
  expect(tried.requests[0]?.headers["x-token"]).toBeUndefined();
  expect(await events()).toEqual(paid(200));
});

test("a live call never reaches the test upstream", async ({ app }) => {
  await using live = await startUpstream();
  await using tried = await startUpstream();
  const settings = { testUpstreams: [{ url: tried.url, weight: 1 }] };
  const { call } = await setUp(app, live.url, { settings });

  await call("x");

  expect([live.requests.length, tried.requests.length]).toEqual([1, 0]);
});
