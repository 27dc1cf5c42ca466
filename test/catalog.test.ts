import { randomUUID } from "node:crypto";
import { Code } from "@connectrpc/connect";
import { expect } from "vitest";
import { ApiState, CatalogService } from "../gen/callora/catalog/v1/catalog_service_pb.ts";
import { must, startTestApp } from "./support/app.ts";
import { newPerson } from "./support/people.ts";
import { test } from "./support/test.ts";

const draft = () => ({
  name: "Weather",
  slug: `a${randomUUID()}`,
  description: "What comes",
  upstreamUrl: "http://127.0.0.1:9/base",
  callNanos: 1_000_000n,
});

test("a draft is its developer's alone until it is published", async ({ app }) => {
  const [developer, other] = [await newPerson(app.db, "developer"), await newPerson(app.db)];
  const catalog = app.client(CatalogService, developer.token);
  const strangers = app.client(CatalogService, other.token);
  const request = draft();

  const { api } = await catalog.createApi(request);

  const apiId = must(api).id;
  const { name, slug, description, upstreamUrl } = request;
  expect(api).toMatchObject({
    ...{ name, slug, description, upstreamUrl },
    developerAccountId: developer.accountId,
    state: ApiState.DRAFT,
    price: { version: 1, callNanos: 1_000_000n, feeBasisPoints: 1000 },
  });
  expect((await catalog.getApi({ apiId })).api).toEqual(api);
  await expect(strangers.getApi({ apiId })).rejects.toMatchObject({ code: Code.NotFound });
  expect(await listed(app, apiId)).toBeUndefined();

  await catalog.publishApi({ apiId });

  expect((await strangers.getApi({ apiId })).api).toMatchObject({
    name,
    state: ApiState.PUBLISHED,
  });
  expect(await listed(app, apiId)).toMatchObject({ name });
});

test("nobody but the developer sees where calls go", async ({ app }) => {
  const [developer, other] = [
    await newPerson(app.db, "developer"),
    await newPerson(app.db, "admin"),
  ];
  const { id: apiId } = await app.api(developer, { upstreamUrl: "http://127.0.0.1:9/hidden" });

  const mine = await app.client(CatalogService, developer.token).getApi({ apiId });
  const theirs = await app.client(CatalogService, other.token).getApi({ apiId });

  expect(mine.api?.upstreamUrl).toBe("http://127.0.0.1:9/hidden");
  expect(theirs.api?.upstreamUrl).toBe("");
  expect((await listed(app, apiId))?.upstreamUrl).toBe("");
});

test("an update changes what it sets and nothing else", async ({ app }) => {
  const developer = await newPerson(app.db, "developer");
  const catalog = app.client(CatalogService, developer.token);
  const { api } = await catalog.createApi(draft());
  const apiId = must(api).id;

  const renamed = await catalog.updateApi({ apiId, name: "Climate" });
  const emptied = await catalog.updateApi({ apiId, description: "" });

  expect(renamed.api).toMatchObject({
    ...{ name: "Climate", description: "What comes", upstreamUrl: "http://127.0.0.1:9/base" },
    price: { version: 1, callNanos: 1_000_000n },
  });
  expect(emptied.api).toMatchObject({ name: "Climate", description: "" });
});

test("a new price is a new version, the same price is none", async ({ app }) => {
  const developer = await newPerson(app.db, "developer");
  const catalog = app.client(CatalogService, developer.token);
  const apiId = must((await catalog.createApi(draft())).api).id;
  const priceOf = async (callNanos: bigint) =>
    (await catalog.updateApi({ apiId, callNanos })).api?.price;

  expect(await priceOf(1_000_000n)).toMatchObject({ version: 1 });
  expect(await priceOf(2n)).toMatchObject({ version: 2, callNanos: 2n });
  expect(await priceOf(0n)).toMatchObject({ version: 3, callNanos: 0n });
  expect(await priceOf(1_000_000n)).toMatchObject({ version: 4, callNanos: 1_000_000n });
});

test("prices that are set at once follow one another, none is lost", async ({ app }) => {
  const developer = await newPerson(app.db, "developer");
  const catalog = app.client(CatalogService, developer.token);
  const apiId = must((await catalog.createApi(draft())).api).id;

  const answers = await Promise.all(
    Array.from({ length: 10 }, (_, index) =>
      catalog.updateApi({ apiId, callNanos: BigInt(index + 1) }),
    ),
  );

  const versions = answers.map(({ api }) => must(api?.price).version);
  expect(versions.toSorted((a, b) => a - b)).toEqual([2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
});

test("of ten developers who want a slug at once, one has it", async ({ app }) => {
  const request = draft();
  const developers = await Promise.all(
    Array.from({ length: 10 }, () => newPerson(app.db, "developer")),
  );

  const outcomes = await Promise.allSettled(
    developers.map(({ token }) => app.client(CatalogService, token).createApi(request)),
  );

  expect(outcomes.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
  const codes = outcomes.flatMap((one) => (one.status === "rejected" ? [one.reason.code] : []));
  expect(new Set(codes)).toEqual(new Set([Code.AlreadyExists]));
});

test("publishing twice is not an error", async ({ app }) => {
  const developer = await newPerson(app.db, "developer");
  const { id: apiId } = await app.api(developer);

  const { api } = await app.client(CatalogService, developer.token).publishApi({ apiId });

  expect(api?.state).toBe(ApiState.PUBLISHED);
});

test("the catalogue pages through every API, newest first", async () => {
  await using app = await startTestApp();
  const developer = await newPerson(app.db, "developer");
  const made: string[] = [];
  for (let index = 0; index < 7; index++) {
    made.push((await app.api(developer)).id);
  }
  const catalog = app.client(CatalogService);

  const seen: string[] = [];
  let pageToken = "";
  do {
    const page = await catalog.listApis({ pageSize: 3, pageToken });
    seen.push(...page.apis.map(({ id }) => id));
    pageToken = page.nextPageToken;
  } while (pageToken !== "");

  expect(seen.toSorted()).toEqual(made.toSorted());
  expect(seen).toEqual(seen.toSorted().reverse());
});

test.for([
  "http://169.254.169.254/latest",
  "http://[::ffff:a9fe:a9fe]/",
  "http://[::127.0.0.1]/",
  "http://10.0.0.1/",
  "http://0/",
  "ftp://example.com/",
  "http://user:secret@example.com/",
  "http://example.com/?q=1",
  "http://example.com/#x",
])("an upstream at %s is refused, new or changed", async (upstreamUrl, { app }) => {
  const { token } = await newPerson(app.db, "developer");
  const catalog = app.client(CatalogService, token);
  const apiId = must((await catalog.createApi(draft())).api).id;

  const attempts = [
    () => catalog.createApi({ ...draft(), upstreamUrl }),
    () => catalog.updateApi({ apiId, upstreamUrl }),
  ];

  for (const attempt of attempts) {
    const outcome = attempt();
    await expect(outcome).rejects.toMatchObject({ code: Code.InvalidArgument });
    await expect(outcome).rejects.toThrow("upstream_url");
  }
  expect((await catalog.getApi({ apiId })).api?.upstreamUrl).toBe("http://127.0.0.1:9/base");
});

test("an upstream cannot be the server itself, or what it stands on", async ({ app }) => {
  const { token } = await newPerson(app.db, "developer");
  const catalog = app.client(CatalogService, token);
  const own = [app.url, app.network.horizonUrl, `http://127.0.0.1:${new URL(app.urls.app).port}`];

  for (const upstreamUrl of own) {
    const outcome = catalog.createApi({ ...draft(), upstreamUrl });
    await expect(outcome, upstreamUrl).rejects.toMatchObject({ code: Code.InvalidArgument });
  }
});

test("nowhere private can be an upstream unless it was allowed", async () => {
  await using app = await startTestApp({ NODE_ENV: "test" });
  const { token } = await newPerson(app.db, "developer");

  const outcome = app.client(CatalogService, token).createApi(draft());

  await expect(outcome).rejects.toMatchObject({ code: Code.InvalidArgument });
});

async function listed(app: Awaited<ReturnType<typeof startTestApp>>, apiId: string) {
  const { apis } = await app.client(CatalogService).listApis({ pageSize: 250 });
  return apis.find(({ id }) => id === apiId);
}
