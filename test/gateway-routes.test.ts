import { expect } from "vitest";
import { CatalogService } from "../gen/callora/catalog/v1/catalog_service_pb.ts";
import { reasonOf, setUp } from "./support/calls.ts";
import { asSuperuser } from "./support/superuser.ts";
import { test } from "./support/test.ts";
import { startUpstream } from "./support/upstream.ts";

const priced = {
  rule: { callNanos: 3n },
  routes: [
    { methods: ["GET"], path: "/v1/{id}" },
    { methods: ["GET"], path: "/v1/big", price: { callNanos: 9n } },
  ],
};

test("each route has its price; what is no route is refused, and free", async ({ app }) => {
  await using upstream = await startUpstream();
  const { call, events } = await setUp(app, upstream.url, priced);

  const passed = [await call("v1/7"), await call("v1/big"), await call("v1/%62ig")];
  const refused = [
    await call("v2"),
    await call("v1/big", { method: "POST" }),
    await call("v1/big/"),
    await call("v1/Big"),
    await call("v1/x%2fbig"),
    await call("v1/big;x"),
  ];

  expect(passed.map(({ status }) => status)).toEqual([200, 200, 200]);
  const shown = await Promise.all(
    refused.map(async (answer) => [answer.status, await reasonOf(answer)]),
  );
  expect(shown).toEqual([
    [404, "ROUTE_NOT_FOUND"],
    [405, "METHOD_NOT_ALLOWED"],
    [400, "PATH_INVALID"],
    [400, "PATH_INVALID"],
    [400, "PATH_INVALID"],
    [400, "PATH_INVALID"],
  ]);
  expect(refused[1]?.headers.get("allow")).toBe("GET, HEAD");
  expect((await events(3)).map(({ charged }) => charged)).toEqual([3n, 9n, 9n]);
  expect(upstream.requests).toHaveLength(3);
});

test("a call names the price version that was the newest; one begins after none is left", async ({
  app,
}) => {
  await using upstream = await startUpstream();
  const { call, api, developer, events } = await setUp(app, upstream.url);
  const catalog = app.client(CatalogService, developer.token);
  const { id: apiId } = api;

  const first = await call("x");
  await catalog.updateApi({ apiId, callNanos: 7n });
  const second = await call("x");
  await catalog.unpublishApi({ apiId });
  const third = await call("x");
  await catalog.publishApi({ apiId });
  const fourth = await call("x");

  const versions = [first, second, fourth].map(({ headers }) =>
    headers.get("x-callora-price-version"),
  );
  expect(versions).toEqual(["1", "2", "2"]);
  expect([third.status, await reasonOf(third)]).toEqual([404, "API_NOT_FOUND"]);
  expect((await events(3)).map(({ charged }) => charged)).toEqual([1_000_000n, 7n, 7n]);
});

test("analytics name a call by its route; without routes by what its API serves", async ({
  app,
}) => {
  await using upstream = await startUpstream((incoming, response) => {
    response.statusCode = incoming.url?.startsWith("/no") === true ? 404 : 200;
    response.end();
  });
  const routed = await setUp(app, upstream.url, { routes: [{ path: "/files/{rest=**}" }] });
  const bare = await setUp(app, upstream.url);

  await routed.call("files/a/b");
  await routed.call("files/c");
  await bare.call("v1/users/7");
  await bare.call("v1/users/8");
  for (const word of ["a", "b", "c"]) {
    await bare.call(`no/${word}`);
  }

  const namesOf = ({ api, events }: typeof bare, count: number) =>
    asSuperuser(app, async (client) => {
      await events(count);
      const found = await client.query(
        "select endpoint from usage_events where api_id = $1 order by position",
        [api.id],
      );
      return found.rows.map(({ endpoint }) => endpoint);
    });
  expect(await namesOf(routed, 2)).toEqual(Array(2).fill("GET /files/{rest=**}"));
  expect(await namesOf(bare, 5)).toEqual([
    ...Array(2).fill("GET /v1/users/*"),
    ...Array(3).fill("GET /*"),
  ]);
});
