import { expect } from "vitest";
import { AnalyticsService } from "../gen/callora/analytics/v1/analytics_service_pb.ts";
import { CreditService } from "../gen/callora/credits/v1/credit_service_pb.ts";
import { must } from "./support/app.ts";
import { test } from "./support/test.ts";
import { startUpstream } from "./support/upstream.ts";

test("a call through the gateway is passed on, metered and charged once", async ({ app }) => {
  await using upstream = await startUpstream();
  const developer = await app.person("DEVELOPER");
  const consumer = await app.person();
  const api = await app.api(developer, { upstreamUrl: `${upstream.url}/base` });
  await app.grant(consumer.accountId, 10_000_000n);
  const secret = await app.key(consumer, api.id);

  const response = await fetch(`${app.url}/v1/call/${api.slug}/v1/search?q=a%20b`, {
    headers: { "x-api-key": secret, cookie: "a=b" },
  });

  expect(response.status).toBe(200);
  expect(await response.json()).toEqual({ ok: true });
  expect(upstream.requests[0]).toMatchObject({ method: "GET", url: "/base/v1/search?q=a%20b" });
  expect(must(upstream.requests[0]).headers).not.toHaveProperty("x-api-key");
  expect(must(upstream.requests[0]).headers).not.toHaveProperty("cookie");
  await app.applied();
  const { balance } = await app.client(CreditService, consumer.token).getBalance({});
  expect(balance).toMatchObject({ grantedNanos: 10_000_000n, chargedNanos: 1_000_000n });
  const usage = await app.client(AnalyticsService, consumer.token).getUsage({});
  expect(usage).toMatchObject({ calls: 1, chargedNanos: 1_000_000n, errors: 0 });
  const today = new Date().toISOString().slice(0, 10);
  const analytics = await app
    .client(AnalyticsService, developer.token)
    .getDeveloperAnalytics({ from: today, to: today, includeTop: true });
  expect(analytics.data).toMatchObject([{ period: today, calls: 1, revenue: 1_000_000n }]);
  expect(analytics.topEndpoints).toMatchObject([{ endpoint: "GET /v1/search", calls: 1 }]);
});
