import { randomUUID } from "node:crypto";
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { Code } from "@connectrpc/connect";
import { expect } from "vitest";
import { KeyState } from "../gen/callora/keys/v1/key_pb.ts";
import { KeyService } from "../gen/callora/keys/v1/key_service_pb.ts";
import { VerifyCode } from "../gen/callora/keys/v1/verification_pb.ts";
import { must, type startTestApp } from "./support/app.ts";
import { newPerson } from "./support/people.ts";
import { asSuperuser } from "./support/superuser.ts";
import { test } from "./support/test.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;

const anHour = { seconds: 3600n };

test("a rotation gives a new key with the same rules, and lets the old one be for a while", async ({
  app,
}) => {
  const { keys, apiId, verify } = await owner(app);
  const rules = { scopes: ["a"], metadata: { k: "v" }, rateLimitPerDay: 50, displayName: "mine" };
  const first = await keys.createKey({ apiId, ...rules });
  const keyId = must(first.key).id;
  const begun = Date.now();

  const { key, oldKey, secret } = await keys.rotateKey({ keyId, overlap: anHour });

  expect(secret).toMatch(/^ck_live_/);
  expect(key).toMatchObject({ ...rules, apiId, state: KeyState.ACTIVE, rotatedToKeyId: "" });
  expect(key?.id).not.toBe(keyId);
  expect(oldKey).toMatchObject({ id: keyId, rotatedToKeyId: must(key).id, state: KeyState.ACTIVE });
  const end = timestampDate(must(oldKey?.rotateEndTime)).getTime();
  expect(end).toBeGreaterThanOrEqual(begun + 3_600_000);
  expect(end).toBeLessThan(Date.now() + 3_600_001);
  expect((await verify({ secret: first.secret })).keyId).toBe(keyId);
  expect((await verify({ secret })).keyId).toBe(must(key).id);
  await asSuperuser(app, (client) =>
    client.query("update api_keys set rotate_until = now() where id = $1", [keyId]),
  );
  // So that what is remembered of the key is forgotten.
  await keys.updateKey({ keyId, displayName: "old" });
  expect((await verify({ secret: first.secret })).code).toBe(VerifyCode.EXPIRED);
  expect((await verify({ secret })).code).toBe(VerifyCode.VALID);
});

test("without an overlap the old key is refused from the answer on", async ({ app }) => {
  const { keys, verify } = await owner(app);
  const first = await keys.createKey({});

  const { secret } = await keys.rotateKey({ keyId: must(first.key).id });

  expect((await verify({ secret: first.secret })).code).toBe(VerifyCode.EXPIRED);
  expect((await verify({ secret })).code).toBe(VerifyCode.VALID);
});

test("both keys of a rotation draw on one quota, and on one set of rate limits", async ({
  app,
}) => {
  const { keys, verify } = await owner(app);
  const first = await keys.createKey({ quota: { usesMax: 10n }, rateLimitPerDay: 3 });
  await verify({ secret: first.secret, cost: 2 });

  const { key, secret } = await keys.rotateKey({ keyId: must(first.key).id, overlap: anHour });

  expect(key?.quota).toMatchObject({ usesMax: 10n, usesLeft: 8n });
  expect(await verify({ secret, cost: 5 })).toMatchObject({ valid: true, usesLeft: 3n });
  expect(await verify({ secret: first.secret, cost: 4 })).toMatchObject({
    code: VerifyCode.USAGE_EXCEEDED,
    usesLeft: 3n,
  });
  expect(await verify({ secret: first.secret, cost: 3 })).toMatchObject({
    valid: true,
    usesLeft: 0n,
    rateLimit: { limit: 3, remaining: 0 },
  });
  expect((await verify({ secret, cost: 0 })).code).toBe(VerifyCode.RATE_LIMITED);
  await keys.updateKey({ keyId: must(key).id, quota: { usesMax: 1n } });
  expect((await keys.getKey({ keyId: must(first.key).id })).key?.quota?.usesLeft).toBe(1n);
});

test("a key is replaced once, and one rotation is over before the next begins", async ({ app }) => {
  const { keys, apiId, verify } = await owner(app);
  const first = await keys.createKey({ apiId });
  const keyId = must(first.key).id;

  const outcomes = await Promise.allSettled(
    Array.from({ length: 8 }, () => keys.rotateKey({ keyId, overlap: anHour })),
  );

  const made = outcomes.flatMap((one) => (one.status === "fulfilled" ? [one.value] : []));
  expect(made).toHaveLength(1);
  const second = must(made[0]);
  expect((await keys.listKeys({ apiId })).keys).toHaveLength(2);
  await expect(keys.createKey({ apiId })).rejects.toMatchObject({ code: Code.AlreadyExists });
  const rotateAgain = () => keys.rotateKey({ keyId: must(second.key).id, overlap: anHour });
  await expect(rotateAgain()).rejects.toMatchObject({
    code: Code.FailedPrecondition,
    message: expect.stringContaining("still accepted"),
  });
  await keys.revokeKey({ keyId });
  const third = await rotateAgain();
  const codes = await Promise.all(
    [first, second, third].map(async ({ secret }) => (await verify({ secret })).code),
  );
  expect(codes).toEqual([VerifyCode.DISABLED, VerifyCode.VALID, VerifyCode.VALID]);
});

test("all keys of a rotation are revoked with those of their API", async ({ app }) => {
  const { keys, apiId, verify } = await owner(app);
  const first = await keys.createKey({ apiId });
  const second = await keys.rotateKey({ keyId: must(first.key).id, overlap: anHour });

  const { keys: revoked } = await keys.revokeKeyForApi({ apiId });

  expect(revoked).toHaveLength(2);
  for (const { secret } of [first, second]) {
    expect((await verify({ secret })).code).toBe(VerifyCode.DISABLED);
  }
});

test("while a replaced key is accepted no other is made for its API", async ({ app }) => {
  const { keys, apiId } = await owner(app);
  const first = await keys.createKey({ apiId });
  const keyId = must(first.key).id;
  const { key } = await keys.rotateKey({ keyId, overlap: anHour });
  await keys.revokeKey({ keyId: must(key).id });

  const refused = { code: Code.AlreadyExists, message: expect.stringContaining("not revoked") };
  await expect(keys.createKey({ apiId })).rejects.toMatchObject(refused);

  await keys.revokeKey({ keyId });
  await expect(keys.createKey({ apiId })).resolves.toBeDefined();
});

test("however often a key was replaced, it is revoked with its API", async ({ app }) => {
  const { accountId, keys, apiId, verify } = await owner(app);
  const { secret, key } = await keys.createKey({ apiId });
  await asSuperuser(app, (client) =>
    client.query(`
      insert into api_keys (
        account_id, id, family_id, user_id, api_id, mode, prefix, key_hash, rotated_to, rotate_until
      )
      select '${accountId}', 'key_' || lpad(n::text, 26, '0'), '${key?.id}', 'x', '${apiId}',
        'live', 'x', sha256(n::text::bytea), '${key?.id}', now()
      from generate_series(1, 10001) as n
    `),
  );

  const revoked = await keys.revokeKeyForApi({ apiId });

  expect(revoked.keys.map(({ id }) => id)).toEqual([key?.id]);
  expect((await verify({ secret })).code).toBe(VerifyCode.DISABLED);
});

test("a key whose time is over is not replaced", async ({ app }) => {
  const { keys } = await owner(app);
  const keyId = must((await keys.createKey({})).key).id;
  await asSuperuser(app, (client) =>
    client.query("update api_keys set expire_at = now() where id = $1", [keyId]),
  );

  await expect(keys.rotateKey({ keyId })).rejects.toMatchObject({
    code: Code.FailedPrecondition,
    message: expect.stringContaining("its time is over"),
  });
});

test("a retried rotation has the first answer again, without the secret", async ({ app }) => {
  const { keys } = await owner(app);
  const keyId = must((await keys.createKey({})).key).id;
  const request = { keyId, requestId: randomUUID() };

  const first = await keys.rotateKey(request);
  const again = await keys.rotateKey(request);

  expect(again).toEqual({ ...first, secret: "" });
  expect((await keys.listKeys({})).keys).toHaveLength(2);
});

async function owner(app: App) {
  const me = await newPerson(app.db);
  const { id: apiId } = await app.api(await newPerson(app.db, "developer"));
  const keys = app.client(KeyService, me.token);
  return { ...me, apiId, keys, verify: keys.verifyKey };
}
