import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { Code, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { expect } from "vitest";
import { AnalyticsService } from "../gen/callora/analytics/v1/analytics_service_pb.ts";
import { QuotaRefill } from "../gen/callora/keys/v1/key_pb.ts";
import { KeyService } from "../gen/callora/keys/v1/key_service_pb.ts";
import { RouterKeyService } from "../gen/callora/keys/v1/router_key_service_pb.ts";
import { VerifyCode, type VerifyKeyResponse } from "../gen/callora/keys/v1/verification_pb.ts";
import { mintSecret } from "../src/keys/secret.ts";
import { must, startTestApp } from "./support/app.ts";
import { newPerson } from "./support/people.ts";
import { asSuperuser } from "./support/superuser.ts";
import { test } from "./support/test.ts";
import { startUpstream } from "./support/upstream.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;

/** What can be wrong with a key, in the order in which it is told. */
const faults = [
  "DISABLED",
  "EXPIRED",
  "FORBIDDEN",
  "INSUFFICIENT_PERMISSIONS",
  "USAGE_EXCEEDED",
  "RATE_LIMITED",
] as const;

const combinations = Array.from({ length: 2 ** faults.length }, (_, index) => {
  const wrong = faults.filter((_fault, bit) => (index >> bit) % 2 === 1);
  return { wrong, what: wrong.length === 0 ? "nothing" : wrong.join(", ") };
});

test.for(combinations)(
  "of what is wrong ($what) the first is told, and only a valid call uses the key up",
  async ({ wrong }, { app }) => {
    const admin = app.client(KeyService, (await newPerson(app.db, "admin")).token);
    const keys = app.client(KeyService, (await newPerson(app.db)).token);
    const is = (fault: (typeof faults)[number]) => wrong.includes(fault);
    const quota = { usesMax: 10n };
    const { key, secret } = await keys.createKey({ rateLimitPerDay: 1, scopes: ["a"], quota });
    const keyId = must(key).id;
    if (is("RATE_LIMITED")) {
      await admin.verifyKey({ secret, cost: 0 });
    }
    await asSuperuser(app, (client) =>
      client.query(
        `update api_keys set state = $2, expire_at = $3, allowed_cidrs = '{192.0.2.0/24}'
         where id = $1`,
        [
          keyId,
          is("DISABLED") ? "disabled" : "active",
          is("EXPIRED") ? new Date(0).toISOString() : null,
        ],
      ),
    );
    // So that what is remembered of the key is forgotten.
    await keys.updateKey({ keyId, displayName: "wrong" });

    const verdict = await admin.verifyKey({
      secret,
      clientIp: is("FORBIDDEN") ? "198.51.100.1" : "192.0.2.1",
      permissions: is("INSUFFICIENT_PERMISSIONS") ? "a AND b" : "a",
      cost: is("USAGE_EXCEEDED") ? 11 : 4,
    });

    expect(verdict).toMatchObject({
      code: VerifyCode[wrong[0] ?? "VALID"],
      valid: wrong.length === 0,
    });
    const { key: after } = await keys.getKey({ keyId });
    expect(after?.quota?.usesLeft).toBe(wrong.length === 0 ? 6n : 10n);
  },
);

test("the answer says what is known of a valid key, and nothing of an unknown one", async ({
  app,
}) => {
  const { keys, apiId, accountId } = await owner(app);
  const quota = { usesMax: 10n };
  const rules = { scopes: ["a"], metadata: { k: "v" }, rateLimitPerMinute: 5, rateLimitPerDay: 9 };
  const { key, secret } = await keys.createKey({ apiId, ...rules, quota });

  const verdict = await keys.verifyKey({ secret });
  const unknown = await keys.verifyKey({ secret: mintSecret("live").plain });

  expect(verdict).toMatchObject({
    valid: true,
    code: VerifyCode.VALID,
    keyId: must(key).id,
    accountId,
    apiId,
    scopes: ["a"],
    metadata: { k: "v" },
    usesLeft: 9n,
    rateLimit: { limit: 5, remaining: 4, resetAfter: { seconds: 12n } },
  });
  expect(unknown).toEqual(await keys.verifyKey({ secret: "garbage" }));
  expect(unknown).toMatchObject({ valid: false, code: VerifyCode.NOT_FOUND, keyId: "" });
});

test("a refused use takes nothing from any budget", async ({ app }) => {
  const { keys } = await owner(app);
  const made = await keys.createKey({ rateLimitPerMinute: 3, quota: { usesMax: 0n } });
  const { secret } = made;
  const keyId = must(made.key).id;
  for (let times = 0; times < 5; times++) {
    expect((await keys.verifyKey({ secret })).code).toBe(VerifyCode.USAGE_EXCEEDED);
  }

  await keys.updateKey({ keyId, quota: { usesMax: 10n }, rateLimitPerDay: 1 });
  const first = await keys.verifyKey({ secret });
  const limited = await keys.verifyKey({ secret });
  await keys.updateKey({ keyId, updateMask: { paths: ["rate_limit_per_day"] } });
  const second = await keys.verifyKey({ secret });

  expect(first).toMatchObject({ valid: true, usesLeft: 9n });
  expect(limited).toMatchObject({
    code: VerifyCode.RATE_LIMITED,
    rateLimit: { limit: 1, remaining: 0, retryAfter: { seconds: expect.any(BigInt) } },
  });
  expect(limited.usesLeft).toBeUndefined();
  expect(second).toMatchObject({
    valid: true,
    usesLeft: 8n,
    rateLimit: { limit: 3, remaining: 1 },
  });
});

test("a cost of zero passes an empty quota", async ({ app }) => {
  const { keys } = await owner(app);
  const { secret } = await keys.createKey({ quota: { usesMax: 0n } });

  expect(await keys.verifyKey({ secret, cost: 0 })).toMatchObject({ valid: true, usesLeft: 0n });
});

test("of 400 uses of three, 40 at once, a quota of 1000 lets exactly 333 pass", async ({ app }) => {
  const { keys } = await owner(app);
  const admin = app.client(KeyService, (await newPerson(app.db, "admin")).token);
  const { key, secret } = await keys.createKey({ quota: { usesMax: 1000n } });

  const verdicts: VerifyKeyResponse[] = [];
  await Promise.all(
    Array.from({ length: 40 }, async () => {
      for (let times = 0; times < 10; times++) {
        verdicts.push(await admin.verifyKey({ secret, cost: 3 }));
      }
    }),
  );

  expect(verdicts.filter(({ valid }) => valid)).toHaveLength(333);
  const refused = verdicts.filter(({ valid }) => !valid);
  expect(new Set(refused.map(({ code }) => code))).toEqual(new Set([VerifyCode.USAGE_EXCEEDED]));
  expect((await keys.getKey({ keyId: must(key).id })).key?.quota?.usesLeft).toBe(1n);
});

test("a quota is full again when its time has come", async ({ app }) => {
  const { keys } = await owner(app);
  const { key, secret } = await keys.createKey({ quota: { usesMax: 2n, refill: 2 } });
  await keys.verifyKey({ secret, cost: 2 });
  expect((await keys.verifyKey({ secret })).code).toBe(VerifyCode.USAGE_EXCEEDED);

  await asSuperuser(app, (client) =>
    client.query("update key_quotas set refill_at = now() where family_id = $1", [must(key).id]),
  );
  // So that what is remembered of the key is forgotten.
  await keys.updateKey({ keyId: must(key).id, displayName: "due" });

  expect((await keys.getKey({ keyId: must(key).id })).key?.quota?.usesLeft).toBe(2n);
  expect(await keys.verifyKey({ secret })).toMatchObject({ valid: true, usesLeft: 1n });
  const { key: after } = await keys.getKey({ keyId: must(key).id });
  expect(after?.quota?.nextRefillTime).toEqual(key?.quota?.nextRefillTime);
});

test.for(["a AND", "(a", "a b", "x".repeat(1001)])(
  'the expression "%s" is refused, whatever the key',
  async (permissions, { app }) => {
    const { keys } = await owner(app);
    const { secret } = await keys.createKey({});

    for (const one of [secret, "garbage"]) {
      await expect(keys.verifyKey({ secret: one, permissions })).rejects.toMatchObject({
        code: Code.InvalidArgument,
        message: expect.stringContaining("permissions"),
      });
    }
  },
);

test("a key is seen by its account and by the platform, and by nobody else", async ({ app }) => {
  const { keys } = await owner(app);
  const { secret } = await keys.createKey({});
  const mate = await keys.createKey({});
  const stranger = await owner(app);
  const theirs = await stranger.keys.createKey({});
  const admin = app.client(KeyService, (await newPerson(app.db, "admin")).token);

  const codeFor = async (client: Pick<ReturnType<typeof clientWith>, "verifyKey">) =>
    (await client.verifyKey({ secret })).code;

  expect(await codeFor(keys)).toBe(VerifyCode.VALID);
  expect(await codeFor(clientWith(app, { "x-api-key": mate.secret }))).toBe(VerifyCode.VALID);
  expect(await codeFor(admin)).toBe(VerifyCode.VALID);
  expect(await codeFor(stranger.keys)).toBe(VerifyCode.NOT_FOUND);
  expect(await codeFor(clientWith(app, { "x-api-key": theirs.secret }))).toBe(VerifyCode.NOT_FOUND);
  await expect(app.client(KeyService).verifyKey({ secret })).rejects.toMatchObject({
    code: Code.Unauthenticated,
  });
});

test("an account that verifies keys is told what is left of its limit", async ({ app }) => {
  const me = await newPerson(app.db);
  const { secret } = await app.client(KeyService, me.token).createKey({});
  const headers = { authorization: `Bearer ${me.token}`, "content-type": "application/json" };

  const response = await fetch(`${app.url}/v1/keys:verify`, {
    method: "POST",
    headers,
    body: JSON.stringify({ secret }),
  });

  expect(await response.json()).toMatchObject({ code: "VERIFY_CODE_VALID" });
  expect(response.headers.get("x-ratelimit-limit")).toBe("200");
  expect(response.headers.get("x-ratelimit-remaining")).toBe("199");
});

test("the gateway counts uses, limits and addresses of a key, and charges none that it refuses", async () => {
  await using app = await startTestApp({ GATEWAY_ALLOW_PRIVATE_UPSTREAMS: "127.0.0.0/8" });
  await using upstream = await startUpstream();
  const developer = await newPerson(app.db, "developer");
  const me = await newPerson(app.db);
  await app.grant(me.accountId, 10_000_000n);
  const apis = [
    await app.api(developer, { upstreamUrl: upstream.url, callNanos: 1_000_000n }),
    await app.api(developer, { upstreamUrl: upstream.url, callNanos: 1_000_000n }),
  ];
  const keys = app.client(KeyService, me.token);
  let retryAfter: string | null = null;
  let limit: (string | null)[] = [];
  const call = async (secret: string, api = apis[0]) => {
    const response = await fetch(`${app.url}/v1/call/${must(api).slug}/x`, {
      headers: { "x-api-key": secret },
    });
    const text = await response.text();
    retryAfter = response.headers.get("retry-after");
    limit = ["limit", "remaining"].map((name) => response.headers.get(`x-ratelimit-${name}`));
    return `${response.status} ${/"reason":\s*"(\w+)"/.exec(text)?.[1] ?? ""}`.trim();
  };
  const used = await keys.createKey({ quota: { usesMax: 2n, refill: QuotaRefill.DAILY } });
  const limited = await keys.createKey({ rateLimitPerMinute: 1 });
  const elsewhere = await keys.createKey({ allowedCidrs: ["192.0.2.0/24"] });
  const here = await keys.createKey({ allowedCidrs: ["127.0.0.0/8"] });

  expect(await call(used.secret)).toBe("200");
  expect(await call(used.secret, apis[1])).toBe("200");
  expect(await call(used.secret)).toBe("429 KEY_USAGE_EXCEEDED");
  expect(Number(retryAfter)).toBeGreaterThan(0);
  expect(await call(limited.secret)).toBe("200");
  expect(limit).toEqual(["100", "99"]);
  expect(await call(limited.secret)).toBe("429 RATE_LIMITED");
  expect(limit, "the key's own").toEqual(["1", "0"]);
  expect(Number(retryAfter)).toBeGreaterThan(50);
  expect(await call(elsewhere.secret)).toBe("401 CREDENTIALS_REQUIRED");
  expect(await call(here.secret)).toBe("200");
  expect(upstream.requests).toHaveLength(4);
  await app.applied();
  const usage = await app.client(AnalyticsService, me.token).getUsage({});
  expect(usage).toMatchObject({ calls: 4, chargedNanos: 4_000_000n });
});

test("an open stream of a revoked key is cut, and what it had is charged", async () => {
  await using app = await startTestApp({ GATEWAY_ALLOW_PRIVATE_UPSTREAMS: "127.0.0.0/8" });
  let left = 0;
  await using upstream = await startUpstream((_request, response) => {
    response.on("close", () => {
      left += 1;
    });
    response.write("first");
  });
  const me = await newPerson(app.db);
  await app.grant(me.accountId, 10_000_000n);
  const api = await app.api(await newPerson(app.db, "developer"), { upstreamUrl: upstream.url });
  const keys = app.client(KeyService, me.token);
  const made = await keys.createKey({ apiId: api.id });
  const { secret: other } = await keys.createKey({});
  const open = async (secret: string) => {
    const url = `${app.url}/v1/call/${api.slug}/x`;
    const reader = must((await fetch(url, { headers: { "x-api-key": secret } })).body).getReader();
    await reader.read();
    return reader;
  };
  const [cut, kept] = [await open(made.secret), await open(other)];

  await keys.updateKey({ keyId: must(made.key).id, displayName: "still accepted" });
  await keys.revokeKey({ keyId: must(made.key).id });

  await expect(cut.read()).rejects.toThrow();
  await expect.poll(() => left).toBe(1);
  // The call is charged once the upstream was left, which is after the consumer was.
  const chargedNanos = async () => {
    await app.applied();
    return (await app.client(AnalyticsService, me.token).getUsage({})).chargedNanos;
  };
  await expect.poll(chargedNanos).toBe(1_000_000n);
  await kept.cancel();
});

test("an open stream is cut when its key's time is over", async () => {
  await using app = await startTestApp({ GATEWAY_ALLOW_PRIVATE_UPSTREAMS: "127.0.0.0/8" });
  await using upstream = await startUpstream((_request, response) => {
    response.write("first");
  });
  const me = await newPerson(app.db);
  await app.grant(me.accountId, 10_000_000n);
  const api = await app.api(await newPerson(app.db, "developer"), { upstreamUrl: upstream.url });
  const keys = app.client(KeyService, me.token);
  const expireAtMs = Date.now() + 5_000;
  const { secret } = await keys.createKey({ expireTime: timestampFromMs(expireAtMs) });
  const { body } = await fetch(`${app.url}/v1/call/${api.slug}/x`, {
    headers: { "x-api-key": secret },
  });
  const reader = must(body).getReader();
  await reader.read();

  await expect(reader.read()).rejects.toThrow();

  expect(Date.now()).toBeGreaterThanOrEqual(expireAtMs);
});

test("no secret is in the log, the audit log, or what is kept for retries", async () => {
  await using app = await startTestApp();
  const me = await newPerson(app.db);
  const keys = app.client(KeyService, me.token);
  const router = app.client(RouterKeyService, me.token);
  const options = (key: string) => ({ headers: { "idempotency-key": key } });
  const made = await keys.createKey({}, options("a"));
  const rotated = await keys.rotateKey({ keyId: must(made.key).id }, options("b"));
  const values = [
    must((await router.createRouterKey({}, options("c"))).key).value,
    must((await router.regenerateRouterKey({})).key).value,
  ];
  const secrets = [made.secret, rotated.secret, ...values];
  for (const secret of secrets) {
    await keys.verifyKey({ secret, permissions: "a" });
    await expect(keys.verifyKey({ secret, permissions: "(" })).rejects.not.toThrow(secret);
    await router.verifyRouterKey({ key: secret });
    await fetch(`${app.url}/v1/call/none/x`, { headers: { "x-api-key": secret } });
  }

  const kept = await asSuperuser(app, async (client) => {
    const tables = ["audit_logs", "idempotency_keys", "api_keys", "router_keys"];
    const texts: string[][] = [];
    for (const table of tables) {
      const { rows } = await client.query(`select * from ${table}`);
      texts.push(rows.map((row) => Object.values(row).map(String).join(" ")));
    }
    return texts.flat();
  });
  expect(secrets.every((secret) => secret.length > 50)).toBe(true);
  expect(kept.length).toBeGreaterThan(8);
  for (const secret of secrets) {
    expect(app.lines.filter((line) => line.includes(secret.slice(10)))).toEqual([]);
    expect(kept.filter((line) => line.includes(secret.slice(20)))).toEqual([]);
  }
});

/** A client with a credential of its own. */
function clientWith(app: App, headers: Record<string, string>) {
  const transport = createGrpcTransport({ baseUrl: app.url });
  const { verifyKey } = createClient(KeyService, transport);
  return {
    verifyKey: (request: Parameters<typeof verifyKey>[0]) => verifyKey(request, { headers }),
  };
}

async function owner(app: App) {
  const me = await newPerson(app.db);
  const { id: apiId } = await app.api(await newPerson(app.db, "developer"));
  return { ...me, apiId, keys: app.client(KeyService, me.token) };
}
