import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { Code } from "@connectrpc/connect";
import { expect } from "vitest";
import { CatalogService } from "../gen/callora/catalog/v1/catalog_service_pb.ts";
import { KeyState, Mode } from "../gen/callora/keys/v1/key_pb.ts";
import { KeyService } from "../gen/callora/keys/v1/key_service_pb.ts";
import { VerifyCode } from "../gen/callora/keys/v1/verification_pb.ts";
import { hashSecret, mintSecret } from "../src/keys/secret.ts";
import { must, type startTestApp } from "./support/app.ts";
import { newPerson } from "./support/people.ts";
import { asSuperuser } from "./support/superuser.ts";
import { test } from "./support/test.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;

test("a secret is shown once, and stored only as its hash", async ({ app }) => {
  const { keys, apiId, accountId } = await consumer(app);

  const { key, secret } = await keys.createKey({ apiId, displayName: "mine" });

  const keyId = must(key).id;
  expect(secret).toMatch(/^ck_live_[0-9A-Za-z]{49}$/);
  expect(key).toMatchObject({
    apiId,
    displayName: "mine",
    prefix: secret.slice(0, 16),
    mode: Mode.LIVE,
    state: KeyState.ACTIVE,
  });
  const shown = [await keys.getKey({ keyId }), await keys.listKeys({})];
  expect(shown.filter((answer) => JSON.stringify(answer, plain).includes(secret))).toEqual([]);
  const { rows } = await asSuperuser(app, (client) =>
    client.query(
      "select row_data::text as line, key_hash from api_keys as row_data where account_id = $1",
      [accountId],
    ),
  );
  expect(rows).toMatchObject([{ key_hash: hashSecret(secret) }]);
  expect(rows[0].line).not.toContain(secret.slice(16));
});

test("an account has one live key for each API and mode", async ({ app }) => {
  const { keys, apiId } = await consumer(app);

  const outcomes = await Promise.allSettled(
    Array.from({ length: 10 }, () => keys.createKey({ apiId })),
  );
  const inTest = await keys.createKey({ apiId, mode: Mode.TEST });

  expect(outcomes.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
  const codes = outcomes.flatMap((one) => (one.status === "rejected" ? [one.reason.code] : []));
  expect(new Set(codes)).toEqual(new Set([Code.AlreadyExists]));
  expect(inTest.secret).toMatch(/^ck_test_/);
});

test("a revoked key is refused from the answer on, stays listed, and makes room", async ({
  app,
}) => {
  const { keys, apiId, slug } = await consumer(app);
  const { key, secret } = await keys.createKey({ apiId });
  const keyId = must(key).id;
  expect(await gatewayStatus(app, slug, secret)).not.toBe(401);

  const revoked = await keys.revokeKey({ keyId });

  expect(await gatewayStatus(app, slug, secret)).toBe(401);
  expect(revoked.key).toMatchObject({ id: keyId, state: KeyState.REVOKED });
  expect((await keys.listKeys({})).keys).toEqual([revoked.key]);
  const next = await keys.createKey({ apiId });
  expect(next.secret).not.toBe(secret);
  expect(await gatewayStatus(app, slug, next.secret)).not.toBe(401);
});

test("revoking twice keeps the first time", async ({ app }) => {
  const { keys, apiId } = await consumer(app);
  const keyId = must((await keys.createKey({ apiId })).key).id;

  const first = await keys.revokeKey({ keyId });
  const second = await keys.revokeKey({ keyId });

  expect(second).toEqual(first);
  expect(first.key?.revokeTime).toBeDefined();
});

test("all live keys for an API are revoked together, and no others", async ({ app }) => {
  const { keys, apiId } = await consumer(app);
  const other = await app.api(await newPerson(app.db, "developer"));
  await keys.createKey({ apiId });
  await keys.createKey({ apiId, mode: Mode.TEST });
  const kept = await keys.createKey({ apiId: other.id });

  const { keys: revoked } = await keys.revokeKeyForApi({ apiId });

  expect(revoked.map(({ state }) => state)).toEqual([KeyState.REVOKED, KeyState.REVOKED]);
  const live = (await keys.listKeys({})).keys.filter(({ state }) => state === KeyState.ACTIVE);
  expect(live).toEqual([kept.key]);
  await expect(keys.revokeKeyForApi({ apiId })).rejects.toMatchObject({ code: Code.NotFound });
});

test("keys are made for published APIs alone", async ({ app }) => {
  const developer = await newPerson(app.db, "developer");
  const draft = { name: "x", slug: `d${Date.now()}`, upstreamUrl: "http://127.0.0.1:9" };
  const { api } = await app.client(CatalogService, developer.token).createApi(draft);

  const ownDraft = app.client(KeyService, developer.token).createKey({ apiId: must(api).id });

  await expect(ownDraft).rejects.toMatchObject({ code: Code.NotFound });
});

test("a key is refused when its time is over", async ({ app }) => {
  const { keys, apiId, slug } = await consumer(app);
  const expireTime = timestampFromMs(Date.now() + 3_600_000);
  const { key, secret } = await keys.createKey({ apiId, expireTime });
  expect(key?.expireTime).toEqual(expireTime);
  expect(await gatewayStatus(app, slug, secret)).not.toBe(401);

  await asSuperuser(app, (client) =>
    client.query("update api_keys set expire_at = now() where id = $1", [must(key).id]),
  );
  // So that what is remembered of the key is forgotten.
  await keys.updateKey({ keyId: must(key).id, displayName: "expired" });

  expect(await gatewayStatus(app, slug, secret)).toBe(401);
});

test("the verdict on a key says the first thing that is wrong with it", async ({ app }) => {
  const { keys, apiId } = await consumer(app);
  const other = await app.api(await newPerson(app.db, "developer"));
  const { key, secret } = await keys.createKey({ apiId });
  const keyId = must(key).id;
  const { token } = await newPerson(app.db, "admin");
  const verify = async (request: { secret: string; apiId?: string }) => {
    const { valid, code } = await app.client(KeyService, token).verifyKey(request);
    return [valid, code];
  };

  expect(await verify({ secret })).toEqual([true, VerifyCode.VALID]);
  expect(await verify({ secret, apiId })).toEqual([true, VerifyCode.VALID]);
  expect(await verify({ secret, apiId: other.id })).toEqual([false, VerifyCode.FORBIDDEN]);
  expect(await verify({ secret: "garbage" })).toEqual([false, VerifyCode.NOT_FOUND]);
  expect(await verify({ secret: mintSecret("live").plain })).toEqual([false, VerifyCode.NOT_FOUND]);
  await asSuperuser(app, (client) =>
    client.query("update api_keys set expire_at = now() where id = $1", [keyId]),
  );
  await keys.updateKey({ keyId, displayName: "expired" });
  expect(await verify({ secret, apiId: other.id })).toEqual([false, VerifyCode.EXPIRED]);
  await keys.revokeKey({ keyId });
  expect(await verify({ secret, apiId: other.id })).toEqual([false, VerifyCode.DISABLED]);
});

test("a key of one API does not open another", async ({ app }) => {
  const { keys, apiId } = await consumer(app);
  const other = await app.api(await newPerson(app.db, "developer"));
  const { secret } = await keys.createKey({ apiId });

  expect(await gatewayStatus(app, other.slug, secret)).toBe(403);
});

test("the list pages through every key, newest first", async ({ app }) => {
  const { keys, apiId } = await consumer(app);
  const made: string[] = [];
  for (let index = 0; index < 7; index++) {
    const { key } = await keys.createKey({ apiId });
    made.push(must(key).id);
    await keys.revokeKey({ keyId: must(key).id });
  }

  const seen: string[] = [];
  let pageToken = "";
  do {
    const page = await keys.listKeys({ pageSize: 3, pageToken });
    seen.push(...page.keys.map(({ id }) => id));
    pageToken = page.nextPageToken;
  } while (pageToken !== "");

  expect(seen.toSorted()).toEqual(made.toSorted());
  expect(seen).toEqual(seen.toSorted().reverse());
});

async function consumer(app: App) {
  const me = await newPerson(app.db);
  const api = await app.api(await newPerson(app.db, "developer"), { callNanos: 0n });
  const keys = app.client(KeyService, me.token);
  return { ...me, keys, apiId: api.id, slug: api.slug };
}

async function gatewayStatus(app: App, slug: string, secret: string): Promise<number> {
  const response = await fetch(`${app.url}/v1/call/${slug}/x`, {
    headers: { "x-api-key": secret },
  });
  await response.body?.cancel();
  return response.status;
}

function plain(_name: string, value: unknown): unknown {
  return typeof value === "bigint" ? String(value) : value;
}
