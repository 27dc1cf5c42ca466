import { randomUUID } from "node:crypto";
import { Code } from "@connectrpc/connect";
import { expect } from "vitest";
import { RouterKeyService } from "../gen/callora/keys/v1/router_key_service_pb.ts";
import { mintRouterSecret } from "../src/keys/secret.ts";
import { must, type startTestApp } from "./support/app.ts";
import { newPerson } from "./support/people.ts";
import { asSuperuser } from "./support/superuser.ts";
import { test } from "./support/test.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;

test("the five routes keep their documented bodies", async ({ app }) => {
  const { token } = await newPerson(app.db);
  const send = sender(app, token);
  const shown = { name: "default", prefix: "ef_", enabled: true, createdAt: expect.any(String) };

  expect(await send("GET")).toEqual({ status: 200 });
  expect(await send("PATCH", { enabled: true })).toMatchObject({ status: 404 });
  expect(await send("DELETE")).toMatchObject({ status: 404 });
  const made = await send("POST", {});
  expect(made).toMatchObject({ status: 200, key: shown });
  const { value, ...key } = made.key;
  expect(value).toMatch(/^ef_[A-Za-z]{64}$/);
  expect(key.start).toBe(value.slice(0, 6));
  expect(await send("GET")).toMatchObject({ status: 200, key: { ...key, value: "" } });
  expect(await send("POST", {})).toMatchObject({
    status: 400,
    message: expect.stringContaining("regenerate"),
  });
  const again = await send("PUT", {});
  expect(again).toMatchObject({ status: 200, key: shown });
  expect(again.key.value).not.toBe(value);
  expect(await send("PATCH", { enabled: false })).toMatchObject({
    status: 200,
    key: { enabled: false, id: again.key.id },
  });
  expect(await send("PATCH", {})).toMatchObject({ status: 400 });
  expect(await send("DELETE")).toEqual({ status: 200, success: true });
  expect(await send("GET")).toEqual({ status: 200 });
  expect(await send("PUT", {})).toMatchObject({ status: 200, key: shown });
});

test("verify says whether a key is accepted, and not whose it is", async ({ app }) => {
  const me = await newPerson(app.db);
  const keys = app.client(RouterKeyService, me.token);
  const value = must((await keys.createRouterKey({})).key).value;
  const verify = async (key: unknown) => {
    const response = await fetch(`${app.url}/v1/apikey/verify`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ key }),
    });
    const text = await response.text();
    expect(text).not.toContain(me.accountId);
    expect(text).not.toContain(me.userId);
    return { status: response.status, ...JSON.parse(text) };
  };
  const refused = (error: string) => ({ status: 200, valid: false, providers: [], error });

  expect(await verify(value)).toEqual({ status: 200, valid: true, providers: [], error: "" });
  for (const unknown of [mintRouterSecret().plain, "garbage", value.toLowerCase()]) {
    expect(await verify(unknown)).toEqual(refused("Invalid API key."));
  }
  expect(await verify("")).toMatchObject({ status: 400 });
  expect(await verify(7)).toMatchObject({ status: 400 });
  await keys.setRouterKeyEnabled({ enabled: false });
  expect(await verify(value)).toEqual(refused("API Key is disabled"));
  await asSuperuser(app, (client) =>
    client.query("update router_keys set expire_at = now() where account_id = $1", [me.accountId]),
  );
  await keys.setRouterKeyEnabled({ enabled: true });
  expect(await verify(value)).toEqual(refused("API Key has expired"));
});

test("an account has one key, however many are asked for at once", async ({ app }) => {
  const keys = app.client(RouterKeyService, (await newPerson(app.db)).token);

  const created = await Promise.allSettled(
    Array.from({ length: 8 }, () => keys.createRouterKey({})),
  );
  const regenerated = await Promise.all(
    Array.from({ length: 8 }, () => keys.regenerateRouterKey({})),
  );

  const first = created.flatMap((one) => (one.status === "fulfilled" ? [one.value.key] : []));
  expect(first).toHaveLength(1);
  const values = [...first, ...regenerated.map(({ key }) => key)].map((key) => must(key).value);
  expect(new Set(values).size).toBe(9);
  const answers = await Promise.all(values.map((key) => keys.verifyRouterKey({ key })));
  expect(answers.filter(({ valid }) => valid)).toHaveLength(1);
  const { key: kept } = await keys.getRouterKey({});
  const accepted = regenerated.find((_one, index) => answers[index + 1]?.valid);
  expect(kept?.id).toBe(must(accepted?.key).id);
});

test("a deleted key is refused, and so is one that was replaced", async ({ app }) => {
  const keys = app.client(RouterKeyService, (await newPerson(app.db)).token);
  const first = must((await keys.createRouterKey({})).key).value;
  await keys.deleteRouterKeys({});
  expect((await keys.verifyRouterKey({ key: first })).error).toBe("Invalid API key.");

  const second = must((await keys.createRouterKey({})).key).value;
  const third = must((await keys.regenerateRouterKey({})).key).value;

  const valid = async (key: string) => (await keys.verifyRouterKey({ key })).valid;
  expect(await Promise.all([first, second, third].map(valid))).toEqual([false, false, true]);
});

test("what one account does leaves another's key alone", async ({ app }) => {
  const [mine, theirs] = [await newPerson(app.db), await newPerson(app.db)];
  const keys = app.client(RouterKeyService, mine.token);
  const key = must(
    (await app.client(RouterKeyService, theirs.token).createRouterKey({})).key,
  ).value;

  await expect(keys.setRouterKeyEnabled({ enabled: false })).rejects.toMatchObject({
    code: Code.NotFound,
  });
  await expect(keys.deleteRouterKeys({})).rejects.toMatchObject({ code: Code.NotFound });
  expect(await keys.getRouterKey({})).not.toHaveProperty("key.id");
  await keys.regenerateRouterKey({});
  await keys.deleteRouterKeys({});

  expect((await keys.verifyRouterKey({ key })).valid).toBe(true);
});

test("a retried create has the first answer again, without the value", async ({ app }) => {
  const keys = app.client(RouterKeyService, (await newPerson(app.db)).token);
  const request = { requestId: randomUUID() };

  const first = await keys.createRouterKey(request);
  const again = await keys.createRouterKey(request);

  expect(must(first.key).value).not.toBe("");
  expect(again).toEqual({ ...first, key: { ...must(first.key), value: "" } });
});

test("a router key opens nothing but its verification", async ({ app }) => {
  const me = await newPerson(app.db);
  const { key } = await app.client(RouterKeyService, me.token).createRouterKey({});

  const response = await fetch(`${app.url}/v1/credits/balance`, {
    headers: { "x-api-key": must(key).value },
  });

  expect(response.status).toBe(401);
});

function sender(app: App, token: string) {
  return async (method: string, body?: object) => {
    const response = await fetch(`${app.url}/v1/apikey`, {
      method,
      headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    return { status: response.status, ...(await response.json()) };
  };
}
