import { timestampDate, timestampFromMs } from "@bufbuild/protobuf/wkt";
import { Code } from "@connectrpc/connect";
import { expect } from "vitest";
import { KeyState, Mode, QuotaRefill } from "../gen/callora/keys/v1/key_pb.ts";
import { KeyService } from "../gen/callora/keys/v1/key_service_pb.ts";
import { VerifyCode } from "../gen/callora/keys/v1/verification_pb.ts";
import { must, type startTestApp } from "./support/app.ts";
import { newPerson } from "./support/people.ts";
import { asSuperuser } from "./support/superuser.ts";
import { test } from "./support/test.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;

const hour = 3_600_000;

test("a key has the rules that it was made with", async ({ app }) => {
  const { keys, apiId } = await owner(app);
  const rules = {
    displayName: "mine",
    expireTime: timestampFromMs(Date.now() + hour),
    scopes: ["a.read", "b.*"],
    allowedCidrs: ["192.0.2.0/24", "2001:db8::/32"],
    rateLimitPerMinute: 10,
    rateLimitPerDay: 100,
    metadata: { plan: "gold", ünï: "cødé" },
  };
  const quota = { usesMax: 1000n, refill: QuotaRefill.MONTHLY, refillDay: 31 };

  const { key } = await keys.createKey({ apiId, ...rules, quota });

  expect(key).toMatchObject({ ...rules, apiId, mode: Mode.LIVE, state: KeyState.ACTIVE });
  expect(key?.quota).toMatchObject({ ...quota, usesLeft: 1000n });
  const next = timestampDate(must(key?.quota?.nextRefillTime));
  expect(next.getTime()).toBeGreaterThan(Date.now());
  expect(next.toISOString()).toMatch(/T00:00:00\.000Z$/);
  expect((await keys.getKey({ keyId: must(key).id })).key).toEqual(key);
  expect((await keys.listKeys({})).keys).toEqual([key]);
});

test.for([
  { field: "scopes", request: { scopes: ["a b"] } },
  { field: "scopes", request: { scopes: ["a.*.b"] } },
  { field: "scopes", request: { scopes: ["a", "a"] } },
  { field: "scopes", request: { scopes: Array.from({ length: 65 }, (_, n) => `s${n}`) } },
  { field: "allowed_cidrs", request: { allowedCidrs: ["192.0.2.1"] } },
  { field: "allowed_cidrs", request: { allowedCidrs: ["192.0.2.1/24"] } },
  { field: "rate_limit_per_minute", request: { rateLimitPerMinute: -1 } },
  { field: "quota", request: { quota: { usesMax: -1n } } },
  { field: "quota", request: { quota: { usesMax: 1n, refillDay: 32 } } },
  { field: "metadata", request: { metadata: { a: "x".repeat(201) } } },
  {
    field: "metadata",
    request: {
      scopes: Array.from({ length: 20 }, (_, n) => `${n}.${"x".repeat(90)}`),
      metadata: { a: "x".repeat(200) },
    },
  },
  { field: "expire_time", request: { expireTime: timestampFromMs(Date.now() - hour) } },
])("a key with wrong $field is refused", async ({ field, request }, { app }) => {
  const { keys } = await owner(app);

  await expect(keys.createKey(request)).rejects.toMatchObject({
    code: Code.InvalidArgument,
    message: expect.stringContaining(field),
  });
  expect((await keys.listKeys({})).keys).toEqual([]);
});

test("an account has many keys for all APIs, up to a thousand live keys", async ({ app }) => {
  const { keys, accountId } = await owner(app);
  await keys.createKey({});
  await keys.createKey({});
  await asSuperuser(app, (client) =>
    client.query(
      `insert into api_keys (account_id, id, family_id, user_id, mode, prefix, key_hash)
       select account_id, 'key_' || lpad(n::text, 26, '0'), family_id, user_id, mode, prefix,
         sha256(convert_to(n::text || account_id, 'UTF8'))
       from generate_series(1, 998) as n
       cross join (select * from api_keys where account_id = $1 limit 1) as one`,
      [accountId],
    ),
  );

  await expect(keys.createKey({})).rejects.toMatchObject({ code: Code.FailedPrecondition });

  const [newest] = (await keys.listKeys({ pageSize: 1 })).keys;
  await keys.revokeKey({ keyId: must(newest).id });
  await expect(keys.createKey({})).resolves.toBeDefined();
});

test("an update changes what its mask names, and nothing else", async ({ app }) => {
  const { keys, apiId } = await owner(app);
  const { key } = await keys.createKey({
    apiId,
    displayName: "a",
    scopes: ["x"],
    metadata: { k: "v" },
  });
  const keyId = must(key).id;

  const renamed = await keys.updateKey({ keyId, displayName: "b" });
  const cleared = await keys.updateKey({
    keyId,
    updateMask: { paths: ["scopes", "rate_limit_per_day"] },
    displayName: "not in the mask",
    rateLimitPerDay: 5,
  });

  expect(renamed.key).toMatchObject({ displayName: "b", scopes: ["x"], metadata: { k: "v" } });
  expect(cleared.key).toMatchObject({
    displayName: "b",
    scopes: [],
    rateLimitPerDay: 5,
    metadata: { k: "v" },
  });
  for (const paths of [["state"], ["scopes", "quota.uses_max"], []]) {
    await expect(keys.updateKey({ keyId, updateMask: { paths } })).rejects.toMatchObject({
      code: Code.InvalidArgument,
      message: expect.stringContaining("update_mask"),
    });
  }
});

test("updates make no key heavier than it may be", async ({ app }) => {
  const { keys } = await owner(app);
  const scopes = Array.from({ length: 20 }, (_, n) => `${n}.${"x".repeat(95)}`);
  const { key } = await keys.createKey({ scopes });
  const keyId = must(key).id;

  const heavier = keys.updateKey({ keyId, metadata: { a: "x".repeat(200) } });

  await expect(heavier).rejects.toMatchObject({ code: Code.InvalidArgument });
  expect((await keys.getKey({ keyId })).key?.metadata).toEqual({});
});

test("a quota is set, filled anew and taken away by updates", async ({ app }) => {
  const { keys, verify } = await owner(app);
  const { key, secret } = await keys.createKey({ quota: { usesMax: 5n } });
  const keyId = must(key).id;
  expect(await verify({ secret, cost: 4 })).toMatchObject({ valid: true, usesLeft: 1n });

  const filled = await keys.updateKey({ keyId, quota: { usesMax: 7n, refill: QuotaRefill.DAILY } });
  expect(filled.key?.quota).toMatchObject({ usesMax: 7n, usesLeft: 7n });
  expect(await verify({ secret, cost: 7 })).toMatchObject({ valid: true, usesLeft: 0n });
  expect(await verify({ secret })).toMatchObject({ code: VerifyCode.USAGE_EXCEEDED });

  const freed = await keys.updateKey({ keyId, updateMask: { paths: ["quota"] } });
  expect(freed.key?.quota).toBeUndefined();
  const free = await verify({ secret, cost: 1_000_000 });
  expect(free).toMatchObject({ valid: true });
  expect(free.usesLeft).toBeUndefined();
});

test("a disabled key is refused until it is enabled", async ({ app }) => {
  const { keys, verify } = await owner(app);
  const { key, secret } = await keys.createKey({});
  const keyId = must(key).id;

  const disabled = await keys.disableKey({ keyId });
  expect(disabled.key?.state).toBe(KeyState.DISABLED);
  expect((await verify({ secret })).code).toBe(VerifyCode.DISABLED);
  await keys.disableKey({ keyId });
  const enabled = await keys.enableKey({ keyId });

  expect(enabled.key?.state).toBe(KeyState.ACTIVE);
  expect((await verify({ secret })).code).toBe(VerifyCode.VALID);
});

test("a revoked key can be renamed, and changed in no other way", async ({ app }) => {
  const { keys } = await owner(app);
  const keyId = must((await keys.createKey({})).key).id;
  await keys.revokeKey({ keyId });

  const renamed = await keys.updateKey({ keyId, displayName: "gone" });
  expect(renamed.key).toMatchObject({ displayName: "gone", state: KeyState.REVOKED });
  for (const attempt of [
    () => keys.updateKey({ keyId, scopes: ["a"] }),
    () => keys.enableKey({ keyId }),
    () => keys.disableKey({ keyId }),
    () => keys.rotateKey({ keyId }),
  ]) {
    await expect(attempt()).rejects.toMatchObject({ code: Code.FailedPrecondition });
  }
});

test("a deleted key is nowhere any more, and its secret stays refused", async ({ app }) => {
  const { keys, verify } = await owner(app);
  const { key, secret } = await keys.createKey({});
  const keyId = must(key).id;

  await keys.deleteKey({ keyId });

  expect((await keys.listKeys({})).keys).toEqual([]);
  expect(await verify({ secret })).toMatchObject({ code: VerifyCode.NOT_FOUND, keyId: "" });
  for (const attempt of [
    () => keys.getKey({ keyId }),
    () => keys.revokeKey({ keyId }),
    () => keys.updateKey({ keyId, displayName: "x" }),
    () => keys.rotateKey({ keyId }),
    () => keys.deleteKey({ keyId }),
  ]) {
    await expect(attempt()).rejects.toMatchObject({ code: Code.NotFound });
  }
  const { rows } = await asSuperuser(app, (client) =>
    client.query("select key_id from api_key_directory where key_id = $1", [keyId]),
  );
  expect(rows).toHaveLength(1);
});

test("the list is narrowed by API, mode and state", async ({ app }) => {
  const { keys, apiId } = await owner(app);
  const make = async (request: Parameters<typeof keys.createKey>[0]) =>
    must((await keys.createKey(request)).key).id;
  const live = await make({ apiId });
  const inTest = await make({ apiId, mode: Mode.TEST });
  const disabled = await make({});
  const revoked = await make({});
  await keys.disableKey({ keyId: disabled });
  await keys.revokeKey({ keyId: revoked });
  const ids = async (filter: Parameters<typeof keys.listKeys>[0]) =>
    (await keys.listKeys(filter)).keys.map(({ id }) => id).toSorted();

  expect(await ids({})).toEqual([live, inTest, disabled, revoked].toSorted());
  expect(await ids({ apiId })).toEqual([live, inTest].toSorted());
  expect(await ids({ mode: Mode.TEST })).toEqual([inTest]);
  expect(await ids({ states: [KeyState.DISABLED] })).toEqual([disabled]);
  expect(await ids({ states: [KeyState.DISABLED, KeyState.REVOKED] })).toEqual(
    [disabled, revoked].toSorted(),
  );
  expect(await ids({ apiId, mode: Mode.LIVE, states: [KeyState.ACTIVE] })).toEqual([live]);
});

test("the REST paths lead to what they say", async ({ app }) => {
  const { keys, token } = await owner(app);
  const keyId = must((await keys.createKey({})).key).id;
  const send = async (method: string, path: string, body: object) => {
    const response = await fetch(`${app.url}/api/api-keys/${keyId}${path}`, {
      method,
      headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
      body: JSON.stringify(body),
    });
    return { status: response.status, ...(await response.json()) };
  };

  expect(
    await send("PATCH", "", { displayName: "a", updateMask: "displayName,scopes" }),
  ).toMatchObject({ status: 200, key: { displayName: "a" } });
  expect(await send("POST", "/disable", {})).toMatchObject({
    status: 200,
    key: { state: "KEY_STATE_DISABLED" },
  });
  expect(await send("POST", "/enable", {})).toMatchObject({ status: 200 });
  expect(await send("POST", "/rotate", { overlap: "3600s" })).toMatchObject({
    status: 201,
    secret: expect.stringMatching(/^ck_live_/),
    oldKey: { id: keyId },
  });
  expect(await send("POST", "/delete", {})).toMatchObject({ status: 200 });
});

test("the last use of a key is seen soon", async ({ app }) => {
  const { keys, verify } = await owner(app);
  const { key, secret } = await keys.createKey({});
  expect(key?.lastUseTime).toBeUndefined();
  const begun = Date.now();

  await verify({ secret });

  await expect
    .poll(async () => (await keys.getKey({ keyId: must(key).id })).key?.lastUseTime, {
      timeout: 10_000,
    })
    .toBeDefined();
  const { key: used } = await keys.getKey({ keyId: must(key).id });
  expect(timestampDate(must(used?.lastUseTime)).getTime()).toBeGreaterThanOrEqual(begun);
});

async function owner(app: App) {
  const me = await newPerson(app.db);
  const { id: apiId } = await app.api(await newPerson(app.db, "developer"));
  const keys = app.client(KeyService, me.token);
  return { ...me, apiId, keys, verify: keys.verifyKey };
}
