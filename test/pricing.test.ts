import type { MessageInitShape } from "@bufbuild/protobuf";
import { expect } from "vitest";
import { CatalogService } from "../gen/callora/catalog/v1/catalog_service_pb.ts";
import { FreeOn, type PriceRuleSchema, TierSpan } from "../gen/callora/catalog/v1/price_pb.ts";
import { MeteringService, UsageOutcome } from "../gen/callora/metering/v1/metering_service_pb.ts";
import { type Outcome, ruleText } from "../src/catalog/price-rule.ts";
import { checkConservation } from "../src/conservation.ts";
import { chargeOf } from "../src/metering/rate.ts";
import { must, startTestApp } from "./support/app.ts";
import { newAccountId, openBooksAndNetwork, usage } from "./support/books.ts";
import { asSuperuser } from "./support/superuser.ts";
import { test } from "./support/test.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;

/** A consumer, and an API that is priced by a rule. */
async function openShop(app: App, rule: MessageInitShape<typeof PriceRuleSchema>) {
  const admin = await app.admin();
  const [consumer, developer] = [await app.person(), await app.person("DEVELOPER")];
  const catalog = app.client(CatalogService, developer.token);
  const slug = `p${consumer.accountId.slice(-10)}`;
  const upstreamUrl = "http://127.0.0.1:9";
  const { api } = await catalog.createApi({ name: "An API", slug, upstreamUrl, rule });
  const apiId = must(api).id;
  await catalog.publishApi({ apiId });
  await app.grant(consumer.accountId, 1_000_000_000n);
  const metering = app.client(MeteringService, admin.token);
  const own = app.client(MeteringService, consumer.token);
  return {
    catalog,
    apiId,
    consumer,
    async record(events: { id: string; units?: bigint; statusCode?: number }[]) {
      const { accountId } = consumer;
      const { results } = await metering.recordUsage({
        events: events.map((one) => ({ source: "t", accountId, apiId, ...one })),
        waitForProjection: { seconds: 10n },
      });
      expect(new Set(results.map(({ outcome }) => outcome))).toEqual(
        new Set([UsageOutcome.APPLIED]),
      );
    },
    async explain(id: string) {
      const { rating } = await own.explainCharge({ source: "t", id });
      return must(rating);
    },
  };
}

async function expectConserved({ db, network }: Pick<App, "db" | "network">) {
  const { checks, difference } = await checkConservation({ db, network });
  expect(difference).toBeNull();
  expect(checks.filter(({ ok }) => !ok)).toEqual([]);
}

test("a call and its units cost what the rule says, and that is explained", async ({ app }) => {
  const shop = await openShop(app, {
    callNanos: 100n,
    units: { from: { case: "jsonPath", value: "$.usage.total_tokens" }, missingUnits: 5n },
    tiers: [{ lastUnit: 1_000n, nanos: 3_000n }, { nanos: 1_000n }],
    unitsPerPrice: 1_000n,
    unitsMax: 2_000n,
    freeOn: [FreeOn.CLIENT_ERROR],
  });

  await shop.record([
    { id: "few", units: 1n },
    { id: "many", units: 1_500n },
    { id: "most", units: 1_000_000n },
    { id: "wrong", units: 10n, statusCode: 404 },
    { id: "failed", units: 10n, statusCode: 500 },
  ]);

  expect(await shop.explain("few")).toMatchObject({ chargedNanos: 103n, reproduced: true });
  expect(await shop.explain("many")).toMatchObject({
    model: "graduated",
    units: 1_500n,
    chargedNanos: 3_600n,
    reproduced: true,
    unitsBefore: 0n,
    tiers: [
      { fromUnit: 0n, units: 1n, unitNanos: 100n, amountNanos: 100n },
      { fromUnit: 1n, units: 1_000n, unitNanos: 3_000n, amountNanos: 3_000n },
      { fromUnit: 1_001n, units: 500n, unitNanos: 1_000n, amountNanos: 500n },
    ],
  });
  expect(await shop.explain("most")).toMatchObject({ chargedNanos: 4_100n, units: 1_000_000n });
  expect(await shop.explain("wrong")).toMatchObject({ chargedNanos: 0n, model: "free", tiers: [] });
  expect(await shop.explain("failed")).toMatchObject({ chargedNanos: 130n, model: "graduated" });
  expect((await shop.explain("few")).rule).not.toBe("");
  await expectConserved(app);
});

test("tiers of a month go on over calls, batches and prices, and each charge names its version", async ({
  app,
}) => {
  const tiers = (nanos: bigint) => [{ lastUnit: 3n }, { lastUnit: 6n, nanos }, { nanos: 1n }];
  const shop = await openShop(app, { tiers: tiers(10n), tierSpan: TierSpan.MONTH });

  await shop.record([{ id: "1" }, { id: "2" }]);
  await shop.record([{ id: "3" }, { id: "4" }]);
  const rule = { tiers: tiers(20n), tierSpan: TierSpan.MONTH };
  await shop.catalog.updateApi({ apiId: shop.apiId, rule });
  await shop.record([{ id: "5" }]);
  await shop.record([{ id: "6" }, { id: "7" }]);

  const rated = await Promise.all(["1", "2", "3", "4", "5", "6", "7"].map(shop.explain));
  expect(rated.map(({ unitsBefore }) => unitsBefore)).toEqual([0n, 1n, 2n, 3n, 4n, 5n, 6n]);
  expect(rated.map(({ chargedNanos }) => chargedNanos)).toEqual([0n, 0n, 0n, 10n, 20n, 20n, 1n]);
  expect(rated.map(({ priceVersion }) => priceVersion)).toEqual([1, 1, 1, 1, 2, 2, 2]);
  expect(rated.every(({ reproduced }) => reproduced)).toBe(true);
  await expectConserved(app);
});

test("tiers of a month go on over events that come in together, before any is applied", async ({
  app,
}) => {
  const tiers = [{ lastUnit: 3n }, { nanos: 1n }];
  const shop = await openShop(app, { tiers, tierSpan: TierSpan.MONTH });

  await Promise.all(["1", "2", "3", "4", "5"].map((id) => shop.record([{ id }])));

  const rated = await Promise.all(["1", "2", "3", "4", "5"].map(shop.explain));
  const before = rated.map(({ unitsBefore }) => unitsBefore);
  expect(before.toSorted()).toEqual([0n, 1n, 2n, 3n, 4n]);
  expect(rated.reduce((sum, { chargedNanos }) => sum + chargedNanos, 0n)).toBe(2n);
});

test("without the journal's row a charge is explained by the sheet of its version", async () => {
  await using app = await startTestApp();
  const shop = await openShop(app, {
    units: { from: { case: "responseHeader", value: "x-units" } },
    tiers: [{ nanos: 7n }],
    unitsMax: 100n,
  });
  await shop.record([{ id: "a", units: 4n }]);
  const before = await shop.explain("a");
  await shop.catalog.updateApi({ apiId: shop.apiId, rule: { callNanos: 1n } });

  await asSuperuser(app, async (client) => {
    await client.query("set session_replication_role = replica");
    await client.query("delete from usage_journal");
  });

  expect(before).toMatchObject({ chargedNanos: 28n, model: "per_unit", priceVersion: 1 });
  expect(await shop.explain("a")).toEqual(before);
});

test("how a call ended decides what it costs, and rating the journal again gives the same", async () => {
  await using books = await openBooksAndNetwork();
  const [account, developer] = [newAccountId(), newAccountId()];
  await books.grant(account, 1_000_000n);
  const rule = ruleText({
    callNanos: 100n,
    tiers: [{ lastUnit: null, nanos: 3n }],
    mode: "graduated",
    span: "call",
    per: 1n,
    unitsMax: 50n,
    source: { header: "x-units", missing: 0n },
    free: 8,
  });
  const ends: [Outcome, number, bigint][] = [
    ["whole", 200, 130n],
    ["whole", 503, 130n],
    ["failed", 502, 0n],
    ["timed_out", 504, 130n],
    ["consumer_left", 200, 0n],
    ["no_units", 200, 100n],
  ];
  const entries = ends.map(([outcome, status]) => {
    const entry = usage({ account, developer, units: 10n, outcome, status, unitsBefore: 3n });
    const priced = { ...entry, price: { ...entry.price, rule } };
    return { ...priced, chargedNanos: chargeOf(priced) };
  });

  await books.journal.append(entries);
  await books.project();

  expect(entries.map(({ chargedNanos }) => chargedNanos)).toEqual(ends.map(([, , nanos]) => nanos));
  expect(await books.sum("select sum(charged_nanos) as sum from usage_events")).toBe(490n);
  // Those that failed or said no units are not counted.
  expect(await books.sum("select sum(units) as sum from billing_lines")).toBe(40n);
  const { checks, difference } = await books.conservation();
  expect([difference, checks.filter(({ ok }) => !ok)]).toEqual([null, []]);

  // What is stored of it is part of what is compared.
  await books.superuser.query("update usage_events set outcome = 1 where outcome = 4");
  expect((await books.conservation()).difference).toMatchObject({
    field: "outcome",
    stored: "failed",
  });
});
