import { randomUUID } from "node:crypto";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { expect, onTestFinished } from "vitest";
import {
  CatalogService,
  type CreateApiRequestSchema,
  DeliveryMode,
} from "../gen/callora/catalog/v1/catalog_service_pb.ts";
import { SecretService } from "../gen/callora/credentials/v1/secret_service_pb.ts";
import { createSealer, type Sealer } from "../src/credentials/seal.ts";
import type { Trust } from "../src/db/trust.ts";
import { type GatewayApi, rememberApis } from "../src/gateway/api.ts";
import { createUpstreams } from "../src/gateway/upstream.ts";
import { must, openTestTrust, type startTestApp, testSealer } from "./support/app.ts";
import { heldTrust } from "./support/direct-trust.ts";
import { newPerson } from "./support/people.ts";
import { test } from "./support/test.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;

/** What another process than the app remembers. */
async function startMemory(
  app: App,
  { sealer = testSealer, ...given }: { sealer?: Pick<Sealer, "open">; trust?: Trust } = {},
) {
  const trust = given.trust ?? (await openTestTrust(app.db, app.urls));
  const nowMs = () => performance.now();
  const addresses = { allows: () => true };
  const upstreams = createUpstreams({ addresses, connectionsMax: 1, timeoutMs: 1_000, nowMs });
  onTestFinished(async () => {
    await upstreams.close();
    await trust.close();
  });
  let loads = 0;
  const db: typeof app.db = {
    ...app.db,
    systemTransaction: (work) => {
      loads += 1;
      return app.db.systemTransaction(work);
    },
  };
  const now = () => new Date();
  const apis = rememberApis({ db, trust, sealer, upstreams, timeoutMs: 7_000, now });
  return { apis, loads: () => loads };
}

async function startDeveloper(app: App) {
  const developer = await newPerson(app.db, "developer");
  const catalog = app.client(CatalogService, developer.token);
  const secrets = app.client(SecretService, developer.token);
  const make = async (change: MessageInitShape<typeof CreateApiRequestSchema> = {}) => {
    const slug = `a${randomUUID()}`;
    const draft = { name: "Weather", slug, upstreamUrl: "http://127.0.0.1:9/base", callNanos: 5n };
    const { id } = must((await catalog.createApi({ ...draft, ...change })).api);
    return { id, slug };
  };
  return { developer, catalog, secrets, make };
}

const priceOf = (api: GatewayApi | null, method: string, path: string) => {
  const match = must(api).match(method, path);
  return match.kind === "match" ? match : match.kind;
};

test("an API that says nothing is called as it always was", async ({ app }) => {
  const { developer, catalog, make } = await startDeveloper(app);
  const { apis, loads } = await startMemory(app, { trust: heldTrust });
  const { id, slug } = await make();
  await catalog.publishApi({ apiId: id });

  const api = must(await apis.get(slug));

  expect(api).toMatchObject({
    ...{ id, slug, accountId: developer.accountId, isCallable: true, test: null },
    ...{ credential: null, isAsync: false, timeoutMs: 7_000, durationMsMax: 600_000, retries: 1 },
    ...{ cors: null, responseBytesMax: 0 },
  });
  expect(priceOf(api, "PURGE", "/any//thing")).toEqual({
    kind: "match",
    value: {
      pinned: {
        ...{ apiId: id, developerId: developer.accountId, version: 1, unitNanos: 5n },
        ...{ feeBasisPoints: 1000, rule: "" },
      },
      rule: null,
    },
    endpoint: "",
  });
  expect(api.live.pick([])).toMatchObject({ basePath: "/base", host: "127.0.0.1:9" });
  // From memory, without a promise.
  const before = loads();
  expect(apis.get(slug)).toBe(api);
  expect((await apis.get(id))?.id).toBe(id);
  expect(await apis.get("nothing")).toBeNull();
  expect(apis.get("nothing")).toBeNull();
  expect(loads()).toBe(before + 2);
});

test("settings, routes and rules are compiled", async ({ app }) => {
  const { make } = await startDeveloper(app);
  const { apis } = await startMemory(app);
  const { slug } = await make({
    callNanos: 0n,
    rule: { callNanos: 3n },
    routes: [
      { methods: ["GET"], path: "/v1/{id}" },
      { methods: ["GET"], path: "/v1/big", price: { callNanos: 9n } },
    ],
    settings: {
      upstreams: [
        { url: "http://127.0.0.1:1", weight: 0 },
        { url: "http://127.0.0.1:2", weight: 1 },
      ],
      testUpstreams: [{ url: "http://127.0.0.1:3", weight: 1 }],
      delivery: DeliveryMode.ASYNC,
      timeout: { seconds: 1n, nanos: 500_000_000 },
      durationMax: { seconds: 60n, nanos: 0 },
      retries: 0,
      corsOrigins: ["https://shop.example"],
      responseBytesMax: 1_000n,
    },
  });

  const api = must(await apis.get(slug));

  expect(api).toMatchObject({
    ...{ isCallable: false, isAsync: true, timeoutMs: 1_500, durationMsMax: 60_000, retries: 0 },
    responseBytesMax: 1_000,
  });
  expect(api.live.pick([])?.host).toBe("127.0.0.1:2");
  expect(api.test?.pick([])?.host).toBe("127.0.0.1:3");
  expect(api.cors?.isAny).toBe(false);
  expect(api.cors?.allows("https://shop.example")).toBe(true);
  expect(api.cors?.allows("https://shop.example.evil.example")).toBe(false);
  expect(priceOf(api, "GET", "/v1/7")).toMatchObject({
    endpoint: "GET /v1/{id}",
    value: { pinned: { unitNanos: 3n }, rule: { callNanos: 3n } },
  });
  expect(priceOf(api, "GET", "/v1/big")).toMatchObject({
    value: { pinned: { unitNanos: 9n }, rule: { callNanos: 9n } },
  });
  expect(priceOf(api, "POST", "/v1/big")).toBe("method");
  expect(priceOf(api, "GET", "/v2")).toBe("unknown");
});

test("once a change is answered, no process goes by what was before", async ({ app }) => {
  const { catalog, make } = await startDeveloper(app);
  const { apis } = await startMemory(app);
  const { id: apiId, slug } = await make();
  const seen = async () => [await apis.get(slug), await apis.get(apiId)].map((api) => must(api));
  expect((await seen()).map(({ isCallable }) => isCallable)).toEqual([false, false]);

  await catalog.publishApi({ apiId });
  expect((await seen()).map(({ isCallable }) => isCallable)).toEqual([true, true]);

  await catalog.updateApi({ apiId, callNanos: 6n, upstreamUrl: "http://127.0.0.1:8" });
  for (const api of await seen()) {
    expect(api.live.pick([])?.host).toBe("127.0.0.1:8");
    expect(priceOf(api, "GET", "/")).toMatchObject({
      value: { pinned: { version: 2, unitNanos: 6n } },
    });
  }

  await catalog.unpublishApi({ apiId });
  expect((await seen()).map(({ isCallable }) => isCallable)).toEqual([false, false]);
});

test("a slug that was asked for before there was an API is found once it is published", async ({
  app,
}) => {
  const { catalog, make } = await startDeveloper(app);
  const { apis } = await startMemory(app);
  const slug = `a${randomUUID()}`;
  expect(await apis.get(slug)).toBeNull();

  const { id: apiId } = await make({ slug });
  await catalog.publishApi({ apiId });

  expect((await apis.get(slug))?.id).toBe(apiId);
});

test("a credential is sent as it is now: set, changed, disabled, removed", async ({ app }) => {
  const { catalog, secrets, make } = await startDeveloper(app);
  const { apis } = await startMemory(app);
  const credential = {
    ...{ provider: "acme", field: "token", header: "authorization" },
    prefix: "Bearer ",
  };
  const { id: apiId, slug } = await make({ settings: { credential } });
  await catalog.publishApi({ apiId });
  const value = async (mode: "live" | "test" = "live") =>
    must((await apis.get(slug))?.credential).value(mode);
  expect((await apis.get(slug))?.credential?.header).toBe("authorization");
  expect(await value()).toBeNull();

  await secrets.putSecret({ provider: "acme", keys: { token: "one", other: "x" } });
  expect(await value()).toBe("Bearer one");
  expect(await value("test")).toBe("");
  await secrets.putSecret({ provider: "acme", keys: { token: "two" } });
  expect(await value()).toBe("Bearer two");
  await secrets.putSecret({ provider: "acme", keys: { token: "a\r\nx-evil: 1" } });
  expect(await value()).toBeNull();
  await secrets.putSecret({ provider: "acme", keys: { token: "three" } });
  await secrets.setSecretEnabled({ provider: "acme", enabled: false });
  expect(await value()).toBeNull();
  await secrets.setSecretEnabled({ provider: "acme", enabled: true });
  expect(await value()).toBe("Bearer three");
  await secrets.deleteSecret({ provider: "acme" });
  expect(await value()).toBeNull();
});

test("nobody's API sends another developer's secret, and a damaged one is not sent", async ({
  app,
}) => {
  const [one, other] = [await startDeveloper(app), await startDeveloper(app)];
  const { apis } = await startMemory(app);
  await other.secrets.putSecret({ provider: "acme", keys: { token: "theirs" } });
  const credential = { provider: "acme", field: "token", header: "x-token", prefix: "" };
  const [mine, theirs] = [
    await one.make({ settings: { credential } }),
    await other.make({ settings: { credential } }),
  ];
  const value = async ({ slug }: { slug: string }) =>
    must((await apis.get(slug))?.credential).value("live");

  expect(await value(mine)).toBeNull();
  expect(await value(theirs)).toBe("theirs");

  const otherKey = createSealer({ keys: [{ version: 1, key: Buffer.alloc(32, "other") }] });
  const unopened = await startMemory(app, { sealer: otherKey });
  const { credential: damaged } = must(await unopened.apis.get(theirs.slug));
  expect(await must(damaged).value("live")).toBeNull();
});
