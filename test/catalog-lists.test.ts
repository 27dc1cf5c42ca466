import { randomUUID } from "node:crypto";
import { Code } from "@connectrpc/connect";
import { expect } from "vitest";
import { ApiState, CatalogService } from "../gen/callora/catalog/v1/catalog_service_pb.ts";
import { must, type startTestApp } from "./support/app.ts";
import { newPerson } from "./support/people.ts";
import { test } from "./support/test.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;

async function newApi(
  app: App,
  developer: { token: string },
  { isPublished = true, ...change }: { isPublished?: boolean; [name: string]: unknown } = {},
) {
  const catalog = app.client(CatalogService, developer.token);
  const slug = `a${randomUUID()}`;
  const draft = { name: "Weather", slug, upstreamUrl: "http://127.0.0.1:9/hidden" };
  const api = must((await catalog.createApi({ ...draft, ...change })).api);
  if (isPublished) {
    await catalog.publishApi({ apiId: api.id });
  }
  return api;
}

test("what is unpublished is not listed and hidden from others, until it is published again", async ({
  app,
}) => {
  const [developer, other] = [await newPerson(app.db, "developer"), await newPerson(app.db)];
  const { id: apiId } = await newApi(app, developer);
  const catalog = app.client(CatalogService, developer.token);
  const strangers = app.client(CatalogService, other.token);
  const listed = async () => {
    const { apis } = await strangers.listApis({ developerAccountId: developer.accountId });
    return apis.map(({ id }) => id);
  };
  expect(await listed()).toEqual([apiId]);

  const { api } = await catalog.unpublishApi({ apiId });
  const again = await catalog.unpublishApi({ apiId });

  expect([api?.state, again.api?.state]).toEqual([ApiState.UNPUBLISHED, ApiState.UNPUBLISHED]);
  expect(await listed()).toEqual([]);
  await expect(strangers.getApi({ apiId })).rejects.toMatchObject({ code: Code.NotFound });
  expect((await catalog.getApi({ apiId })).api?.state).toBe(ApiState.UNPUBLISHED);
  await catalog.publishApi({ apiId });
  expect(await listed()).toEqual([apiId]);
});

test("a draft that is unpublished stays a draft", async ({ app }) => {
  const developer = await newPerson(app.db, "developer");
  const { id: apiId } = await newApi(app, developer, { isPublished: false });

  const { api } = await app.client(CatalogService, developer.token).unpublishApi({ apiId });

  expect(api?.state).toBe(ApiState.DRAFT);
});

test("the catalogue is filtered by category, text and developer, page by page", async ({ app }) => {
  const [one, other] = [await newPerson(app.db, "developer"), await newPerson(app.db, "developer")];
  const mark = randomUUID();
  const category = `c${mark.slice(0, 8)}`;
  const wanted = [
    await newApi(app, one, { category, name: `100% ${mark.toUpperCase()}` }),
    await newApi(app, one, { category, slug: `s-${mark}` }),
    await newApi(app, one, { category, description: `Of ${mark}.` }),
  ];
  await newApi(app, one, { category });
  await newApi(app, one, { name: mark });
  await newApi(app, other, { category, name: mark });
  await newApi(app, one, { category, name: mark, isPublished: false });
  const catalog = app.client(CatalogService);
  const filter = { category, query: mark, developerAccountId: one.accountId, pageSize: 2 };

  const first = await catalog.listApis(filter);
  const second = await catalog.listApis({ ...filter, pageToken: first.nextPageToken });

  expect([...first.apis, ...second.apis].map(({ id }) => id)).toEqual(
    wanted.map(({ id }) => id).reverse(),
  );
  expect(second.nextPageToken).toBe("");
  const percent = await catalog.listApis({ category, query: "100%" });
  expect(percent.apis.map(({ id }) => id)).toEqual([wanted[0]?.id]);
  expect((await catalog.listApis({ category, query: "1%0" })).apis).toEqual([]);
});

test("lists leave routes out, and keep rules", async ({ app }) => {
  const developer = await newPerson(app.db, "developer");
  const routes = [{ path: "/a", price: { callNanos: 3n } }];
  await newApi(app, developer, { rule: { callNanos: 2n }, routes });

  const { apis } = await app
    .client(CatalogService)
    .listApis({ developerAccountId: developer.accountId });

  expect(apis).toMatchObject([{ price: { rule: { callNanos: 2n }, routes: [] } }]);
});

test("a developer lists his own APIs alone, in every state or in one", async ({ app }) => {
  const [developer, other] = [
    await newPerson(app.db, "developer"),
    await newPerson(app.db, "developer"),
  ];
  await newApi(app, other);
  const draft = await newApi(app, developer, { isPublished: false, settings: { retries: 3 } });
  const published = await newApi(app, developer);
  const hidden = await newApi(app, developer);
  const catalog = app.client(CatalogService, developer.token);
  await catalog.unpublishApi({ apiId: hidden.id });
  const ids = async (state?: ApiState) =>
    (await catalog.listOwnApis(state === undefined ? {} : { state })).apis.map(({ id }) => id);

  expect(await ids()).toEqual([hidden.id, published.id, draft.id]);
  expect(await ids(ApiState.DRAFT)).toEqual([draft.id]);
  expect(await ids(ApiState.PUBLISHED)).toEqual([published.id]);
  expect(await ids(ApiState.UNPUBLISHED)).toEqual([hidden.id]);
  const { apis, nextPageToken } = await catalog.listOwnApis({ pageSize: 2 });
  const next = await catalog.listOwnApis({ pageSize: 2, pageToken: nextPageToken });
  expect([...apis, ...next.apis]).toHaveLength(3);
  expect(next.apis).toMatchObject([
    { upstreamUrl: "http://127.0.0.1:9/hidden", settings: { retries: 3 } },
  ]);
});

test("whoever has a reply already is told so, until it changes", async ({ app }) => {
  const developer = await newPerson(app.db, "developer");
  const { id } = await newApi(app, developer, { description: "x".repeat(2_000) });
  const authorization = `Bearer ${developer.token}`;
  const get = (path: string, headers: Record<string, string> = {}) =>
    fetch(`${app.url}${path}`, { headers: { authorization, ...headers } });
  const path = `/api/apis/${id}`;

  const first = await get(path);
  const etag = must(first.headers.get("etag"));
  const known = await get(path, { "if-none-match": `"other", ${etag}` });
  const zipped = await get(path, { "if-none-match": etag, "accept-encoding": "gzip" });

  expect(first.status).toBe(200);
  expect(first.headers.get("cache-control")).toBe("private, no-cache");
  expect([known.status, await known.text()]).toEqual([304, ""]);
  expect([known.headers.get("etag"), known.headers.get("content-type")]).toEqual([etag, null]);
  expect(known.headers.get("x-request-id")).not.toBeNull();
  expect(zipped.status).toBe(304);
  await app.client(CatalogService, developer.token).updateApi({ apiId: id, name: "Climate" });
  const changed = await get(path, { "if-none-match": etag });
  expect(changed.status).toBe(200);
  expect(await changed.json()).toMatchObject({ api: { name: "Climate" } });
  expect(changed.headers.get("etag")).not.toBe(etag);
});

test("lists have tags too; errors and what is not a read have none", async ({ app }) => {
  const developer = await newPerson(app.db, "developer");
  const { id } = await newApi(app, developer);
  const list = `${app.url}/api/apis?developerAccountId=${developer.accountId}`;

  const listed = await fetch(list);
  const etag = must(listed.headers.get("etag"));

  expect(listed.headers.get("cache-control")).toBe("no-cache");
  expect((await fetch(list, { headers: { "if-none-match": etag } })).status).toBe(304);
  expect((await fetch(`${app.url}/api/apis/${id}/prices`)).headers.get("etag")).not.toBeNull();
  const error = await fetch(`${app.url}/api/apis/api_${"0".repeat(26)}/prices`, {
    headers: { "if-none-match": "*" },
  });
  expect([error.status, error.headers.get("etag")]).toEqual([404, null]);
  const authorization = `Bearer ${developer.token}`;
  const own = await fetch(`${app.url}/api/developers/apis`, { headers: { authorization } });
  expect([own.status, own.headers.get("etag")]).toEqual([200, null]);
});
