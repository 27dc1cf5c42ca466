import { randomUUID } from "node:crypto";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { type Client, Code } from "@connectrpc/connect";
import { expect } from "vitest";
import {
  CatalogService,
  type CreateApiRequestSchema,
  DeliveryMode,
} from "../gen/callora/catalog/v1/catalog_service_pb.ts";
import { FreeOn, TierMode, TierSpan } from "../gen/callora/catalog/v1/price_pb.ts";
import { must, type startTestApp } from "./support/app.ts";
import { newPerson } from "./support/people.ts";
import { test } from "./support/test.ts";

type Catalog = Client<typeof CatalogService>;

async function newCatalog(app: Awaited<ReturnType<typeof startTestApp>>) {
  const developer = await newPerson(app.db, "developer");
  return { developer, catalog: app.client(CatalogService, developer.token) };
}

async function makeApi(
  catalog: Catalog,
  change: MessageInitShape<typeof CreateApiRequestSchema> = {},
) {
  const slug = `a${randomUUID()}`;
  const draft = { name: "Weather", slug, upstreamUrl: "http://127.0.0.1:9" };
  return must((await catalog.createApi({ ...draft, ...change })).api);
}

const settings = {
  upstreams: [
    { url: "http://127.0.0.1:9/a", weight: 3 },
    { url: "http://127.0.0.1:9/b", weight: 0 },
  ],
  credential: { provider: "acme", field: "token", header: "x-token", prefix: "" },
  delivery: DeliveryMode.ASYNC,
  retries: 2,
  corsOrigins: ["https://shop.example"],
};

test("rule, routes, category and settings come back; only the developer sees the settings", async ({
  app,
}) => {
  const { catalog } = await newCatalog(app);
  const other = await newPerson(app.db);
  const routes = [
    { methods: ["POST", "GET"], path: "/v1/{id}" },
    { path: "/v1/big", price: { callNanos: 9n } },
  ];
  const change = { category: "weather", rule: { callNanos: 7n }, routes, settings };

  const api = await makeApi(catalog, change);
  await catalog.publishApi({ apiId: api.id });

  expect(api).toMatchObject({
    category: "weather",
    settings,
    price: {
      version: 1,
      callNanos: 7n,
      rule: {
        callNanos: 7n,
        tierMode: TierMode.GRADUATED,
        tierSpan: TierSpan.CALL,
        unitsMax: 1n,
        freeOn: [FreeOn.SERVER_ERROR, FreeOn.TIMEOUT],
      },
      routes: [
        { methods: ["GET", "POST"], path: "/v1/{id}" },
        { methods: [], path: "/v1/big", price: { callNanos: 9n } },
      ],
    },
  });
  expect(api.price?.createTime).toBeDefined();
  const theirs = await app.client(CatalogService, other.token).getApi({ apiId: api.id });
  expect(theirs.api).toMatchObject({ category: "weather", price: { routes: [{}, {}] } });
  expect(theirs.api?.settings).toBeUndefined();
});

test("settings are replaced as a whole, and left alone by other changes", async ({ app }) => {
  const { catalog } = await newCatalog(app);
  const { id: apiId } = await makeApi(catalog, { settings });

  const renamed = await catalog.updateApi({ apiId, name: "Climate", category: "air" });
  const changed = await catalog.updateApi({ apiId, settings: { retries: 0 } });

  expect(renamed.api).toMatchObject({ settings, category: "air" });
  expect(changed.api?.settings).toMatchObject({ retries: 0, upstreams: [], corsOrigins: [] });
  expect(changed.api?.settings?.credential).toBeUndefined();
  expect(changed.api?.price?.version).toBe(1);
});

test("a version is made by another rule or other routes, and by the same ones none", async ({
  app,
}) => {
  const { catalog } = await newCatalog(app);
  const { id: apiId } = await makeApi(catalog, { callNanos: 5n });
  const price = async (change: Partial<Parameters<Catalog["updateApi"]>[0]>) =>
    must((await catalog.updateApi({ ...change, apiId })).api?.price);
  const routes = { routes: [{ methods: ["GET"], path: "/a" }] };

  expect(await price({ rule: { callNanos: 5n, freeOn: [FreeOn.CLIENT_ERROR] } })).toMatchObject({
    version: 2,
  });
  expect(await price({ rule: { callNanos: 5n, freeOn: [FreeOn.CLIENT_ERROR] } })).toMatchObject({
    version: 2,
  });
  expect(await price({ routes })).toMatchObject({
    version: 3,
    rule: { freeOn: [FreeOn.CLIENT_ERROR] },
    routes: [{ path: "/a" }],
  });
  expect(await price({ callNanos: 6n })).toMatchObject({
    version: 4,
    callNanos: 6n,
    rule: { callNanos: 6n, freeOn: [FreeOn.CLIENT_ERROR] },
    routes: [{ path: "/a" }],
  });
  expect(await price({ routes })).toMatchObject({ version: 4 });
  expect(await price({ routes: {} })).toMatchObject({ version: 5, routes: [] });
});

test.for([
  ["call_nanos", { callNanos: 2n, rule: { callNanos: 1n } }],
  ["routes[1].path", { routes: [{ path: "/a" }, { path: "/a" }] }],
  ["routes[0].path", { routes: [{ path: "/a/{b}x" }] }],
  [
    "settings.credential.header",
    { settings: { credential: { ...settings.credential, header: "host" } } },
  ],
  ["settings.upstreams", { settings: { upstreams: [{ url: "http://127.0.0.1:9" }] } }],
] as const)("what makes no sense is refused: %s", async ([field, change], { app }) => {
  const { catalog } = await newCatalog(app);

  const outcome = makeApi(catalog, change as never);

  await expect(outcome).rejects.toMatchObject({ code: Code.InvalidArgument });
  await expect(outcome).rejects.toThrow(field);
});

test.for(["upstreams", "testUpstreams"] as const)(
  "%s cannot be where the gateway must not go, new or changed",
  async (name, { app }) => {
    const { catalog } = await newCatalog(app);
    const { id: apiId } = await makeApi(catalog);
    const bad = { [name]: [{ url: "http://169.254.169.254/latest", weight: 1 }] };

    const attempts = [
      makeApi(catalog, { settings: bad }),
      catalog.updateApi({ apiId, settings: bad }),
    ];

    for (const attempt of attempts) {
      await expect(attempt).rejects.toMatchObject({ code: Code.InvalidArgument });
    }
  },
);

test("the versions of a published price are there for everybody, newest first, as they were", async ({
  app,
}) => {
  const { catalog } = await newCatalog(app);
  const { id: apiId } = await makeApi(catalog, { callNanos: 1n });
  for (const callNanos of [2n, 3n, 4n, 5n]) {
    await catalog.updateApi({ apiId, callNanos });
  }
  const strangers = app.client(CatalogService);
  await expect(strangers.listPrices({ apiId })).rejects.toMatchObject({ code: Code.NotFound });
  await catalog.publishApi({ apiId });

  const first = await strangers.listPrices({ apiId, pageSize: 3 });
  const second = await strangers.listPrices({ apiId, pageSize: 3, pageToken: first.nextPageToken });

  const all = [...first.prices, ...second.prices];
  expect(all.map(({ version, callNanos }) => [version, callNanos])).toEqual([
    [5, 5n],
    [4, 4n],
    [3, 3n],
    [2, 2n],
    [1, 1n],
  ]);
  expect(second.nextPageToken).toBe("");
  await catalog.unpublishApi({ apiId });
  await expect(strangers.listPrices({ apiId })).rejects.toMatchObject({ code: Code.NotFound });
});

test("a page token of another list is refused", async ({ app }) => {
  const { catalog } = await newCatalog(app);
  const { id: apiId } = await makeApi(catalog);
  await makeApi(catalog);
  const { nextPageToken: pageToken } = await catalog.listOwnApis({ pageSize: 1 });

  const outcome = catalog.listPrices({ apiId, pageToken });

  await expect(outcome).rejects.toMatchObject({ code: Code.InvalidArgument });
  await expect(outcome).rejects.toThrow("page_token");
});
