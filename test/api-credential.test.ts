import { randomUUID } from "node:crypto";
import { expect } from "vitest";
import { CatalogService } from "../gen/callora/catalog/v1/catalog_service_pb.ts";
import { SecretService } from "../gen/callora/credentials/v1/secret_service_pb.ts";
import { reasonOf, setUp } from "./support/calls.ts";
import { test } from "./support/test.ts";
import { startUpstream } from "./support/upstream.ts";

const credential = {
  ...{ provider: "acme", field: "token", header: "authorization" },
  prefix: "Bearer ",
};

test("an API's secret is sent with each call: set, changed, disabled, removed", async ({ app }) => {
  await using upstream = await startUpstream();
  const { call, developer } = await setUp(app, upstream.url, { settings: { credential } });
  const secrets = app.client(SecretService, developer.token);
  const sent = () => upstream.requests.at(-1)?.headers.authorization;
  const set = (token: string) => secrets.putSecret({ provider: "acme", keys: { token } });

  const before = await call("x");
  await set("one");
  expect((await call("x", { headers: { authorization: "Bearer own" } })).status).toBe(200);
  expect(sent()).toBe("Bearer one");
  await set("two");
  expect((await call("x")).status).toBe(200);
  expect(sent()).toBe("Bearer two");
  await secrets.setSecretEnabled({ provider: "acme", enabled: false });
  const disabled = await call("x");
  await secrets.setSecretEnabled({ provider: "acme", enabled: true });
  expect((await call("x")).status).toBe(200);
  await secrets.deleteSecret({ provider: "acme" });
  const removed = await call("x");

  for (const refused of [before, disabled, removed]) {
    expect([refused.status, await reasonOf(refused)]).toEqual([503, "UPSTREAM_CREDENTIAL"]);
  }
  expect(upstream.requests).toHaveLength(3);
});

test("a change of its credential holds for an API once it is answered", async ({ app }) => {
  await using upstream = await startUpstream();
  const { call, developer, api } = await setUp(app, upstream.url, { settings: { credential } });
  const catalog = app.client(CatalogService, developer.token);
  await app
    .client(SecretService, developer.token)
    .putSecret({ provider: "acme", keys: { token: "one", other: "two" } });
  await call("x");

  const changed = { ...credential, field: "other", header: "x-token", prefix: "" };
  await catalog.updateApi({ apiId: api.id, settings: { credential: changed } });
  await call("x", { headers: { "x-token": "own" } });
  await catalog.updateApi({ apiId: api.id, settings: {} });
  await call("x");

  const headers = upstream.requests.map(({ headers: all }) => [all.authorization, all["x-token"]]);
  expect(headers).toEqual([
    ["Bearer one", undefined],
    [undefined, "two"],
    [undefined, undefined],
  ]);
});

test("the secret is in no answer and no line of the log, whatever goes wrong", async ({ app }) => {
  const token = randomUUID();
  await using upstream = await startUpstream((request, response) => {
    if (request.url === "/cut") {
      request.socket.destroy();
    } else {
      response.statusCode = 500;
      response.end("no");
    }
  });
  const settings = {
    credential,
    upstreams: [
      { url: upstream.url, weight: 1 },
      { url: "http://127.0.0.1:1", weight: 0 },
    ],
  };
  const { call, developer, api } = await setUp(app, upstream.url, { settings });
  await app.client(SecretService, developer.token).putSecret({ provider: "acme", keys: { token } });

  const answers = [await call("fail"), await call("cut"), await call("cut", { method: "POST" })];
  const shown = await fetch(`${app.url}/api/apis/${api.id}`, {
    headers: { authorization: `Bearer ${developer.token}` },
  });

  expect(answers.map(({ status }) => status)).toEqual([500, 502, 502]);
  expect(upstream.requests.every(({ headers }) => headers.authorization?.endsWith(token))).toBe(
    true,
  );
  const texts = await Promise.all([...answers, shown].map((answer) => answer.text()));
  const headers = answers.map((answer) => JSON.stringify([...answer.headers]));
  const seen = [...texts, ...headers, ...app.lines].join("\n");
  expect(seen).toContain(api.id);
  expect(seen).not.toContain(token);
});
