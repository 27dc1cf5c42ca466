import { createHmac } from "node:crypto";
import { exportSPKI } from "jose";
import { expect, test } from "vitest";
import { externalReader } from "../src/accounts/external.ts";
import { startTestApp } from "./support/app.ts";
import { callWith } from "./support/call.ts";
import { startIssuer } from "./support/oidc.ts";
import { newPerson } from "./support/people.ts";
import { asSuperuser } from "./support/superuser.ts";
import { makeToken } from "./support/tokens.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;

const audience = "https://console.example.com";

/** A provider with a key `k1`, and a server that believes it. */
async function start(kind: "oidc" | "clerk" = "oidc") {
  const provider = await startIssuer();
  const publicKey = await provider.addKey("k1");
  const issuers = [{ issuer: provider.issuer, audience, kind }];
  const app = await startTestApp({ EXTERNAL_ISSUERS: JSON.stringify(issuers) });
  return {
    provider,
    publicKey,
    app,
    async [Symbol.asyncDispose]() {
      await app[Symbol.asyncDispose]();
      await provider[Symbol.asyncDispose]();
    },
  };
}

async function me(
  app: App,
  token: string,
): Promise<{ status: number; body: Record<string, string> }> {
  const response = await fetch(`${app.url}/api/v1/auth/me`, {
    headers: { authorization: `Bearer ${token}` },
  });
  return { status: response.status, body: await response.json() };
}

test("whoever a provider names becomes a person once, which the audit log says", async () => {
  await using world = await start();
  const { app, provider } = world;
  const claims = {
    sub: "alice",
    aud: audience,
    email: "Alice@x.example",
    email_verified: true,
    name: "Alice A",
  };
  const token = await provider.token("k1", claims);

  const answers = await Promise.all(Array.from({ length: 10 }, () => me(app, token)));

  expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([200]));
  expect(new Set(answers.map(({ body }) => body.id)).size).toBe(1);
  expect(answers[0]?.body).toMatchObject({ email: "Alice@x.example", role: "PLATFORM_ROLE_USER" });
  const { rows } = await asSuperuser(app, (client) =>
    client.query(
      "select resource, detail from audit_logs where action = 'user.create' and actor_user_id = $1",
      [answers[0]?.body.id],
    ),
  );
  expect(rows).toEqual([{ resource: `user:${answers[0]?.body.id}`, detail: provider.issuer }]);
  expect(provider.requests).toEqual(["/.well-known/openid-configuration", "/keys"]);
});

test.for([
  { what: "not verified", email: "bob@x.example", verified: false },
  { what: "said to be verified by a text", email: "bob@x.example", verified: "true" },
  { what: "somebody else's", email: "taken@x.example", verified: true },
  { what: "no address", email: "bob", verified: true },
])("an address that is $what is not taken over", async ({ email, verified }) => {
  await using world = await start();
  const { app, provider } = world;
  await asSuperuser(app, (client) =>
    client.query("insert into email_directory values ('taken@x.example', 'acc_x', 'usr_x')"),
  );

  const claims = { sub: "bob", aud: audience, email, email_verified: verified };
  const { status, body } = await me(app, await provider.token("k1", claims));

  expect([status, body.email]).toEqual([200, ""]);
});

test("a token that does not hold is refused, whatever is wrong with it", async () => {
  await using world = await start();
  const { app, provider, publicKey } = world;
  const now = Math.floor(Date.now() / 1000);
  const good = { sub: "eve", aud: audience };
  const valid = await provider.token("k1", good);
  const [head = "", body = "", signature = ""] = valid.split(".");
  const encode = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const hs = `${encode({ alg: "HS256", kid: "k1" })}.${body}`;
  const hmac = createHmac("sha256", await exportSPKI(publicKey))
    .update(hs)
    .digest("base64url");
  const tokens = {
    "another audience": await provider.token("k1", { ...good, aud: "somebody" }),
    "no audience": await provider.token("k1", { sub: "eve" }),
    "a party instead of an audience": await provider.token("k1", { sub: "eve", azp: audience }),
    "an issuer with a slash": await provider.token("k1", { ...good, iss: `${provider.issuer}/` }),
    "an end in the past": await provider.token("k1", { ...good, exp: now - 60 }),
    "a begin in the future": await provider.token("k1", { ...good, nbf: now + 60 }),
    "no subject": await provider.token("k1", { aud: audience }),
    "an empty subject": await provider.token("k1", { ...good, sub: "" }),
    "a long subject": await provider.token("k1", { ...good, sub: "x".repeat(256) }),
    "no algorithm": `${encode({ alg: "none" })}.${body}.`,
    "the public key as a shared secret": `${hs}.${hmac}`,
    "a changed body": `${head}.${encode({ iss: provider.issuer, ...good, exp: now + 60 })}.${signature}`,
    "an unknown key": `${encode({ alg: "RS256", kid: "k9" })}.${body}.${signature}`,
    "another algorithm": `${encode({ alg: "PS256", kid: "k1" })}.${body}.${signature}`,
  };

  expect((await me(app, valid)).status).toBe(200);
  for (const [what, token] of Object.entries(tokens)) {
    expect([what, (await me(app, token)).status]).toEqual([what, 401]);
  }
});

test.for(["ES256", "EdDSA"] as const)("a provider may sign with %s", async (alg) => {
  await using world = await start();
  const { app, provider } = world;
  await provider.addKey("k2", alg);

  const { status } = await me(app, await provider.token("k2", { sub: "carol", aud: audience }));

  expect(status).toBe(200);
});

test("Clerk names the party instead of an audience", async () => {
  await using world = await start("clerk");
  const { app, provider } = world;

  const [own, other] = [
    await me(app, await provider.token("k1", { sub: "user_1", azp: audience, sid: "sess_1" })),
    await me(app, await provider.token("k1", { sub: "user_1", azp: "https://evil.example" })),
  ];

  expect([own.status, other.status]).toEqual([200, 401]);
  expect(provider.requests).toEqual(["/.well-known/jwks.json"]);
});

test("who is vouched for by an issuer makes tokens of a day, whatever they ask for", async () => {
  await using world = await start();
  const { app, provider } = world;
  const token = await provider.token("k1", { sub: "eva", aud: audience });
  const lastsMs = async (expireMs?: number) => {
    const response = await fetch(`${app.url}/api/v1/auth/tokens`, {
      method: "POST",
      headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
      body: JSON.stringify({
        name: "x",
        ...(expireMs && { expires_at: new Date(Date.now() + expireMs).toISOString() }),
      }),
    });
    return Date.parse((await response.json()).expires_at) - Date.now();
  };
  const dayMs = 24 * 3600 * 1000;

  const [unsaid, long, short] = [
    await lastsMs(),
    await lastsMs(365 * dayMs),
    await lastsMs(60_000),
  ];

  for (const ms of [unsaid, long]) {
    expect(ms).toBeGreaterThan(dayMs - 60_000);
    expect(ms).toBeLessThanOrEqual(dayMs);
  }
  expect(short).toBeLessThanOrEqual(60_000);
});

test("a deactivated person is refused, whatever the provider says", async () => {
  await using world = await start();
  const { app, provider } = world;
  const token = await provider.token("k1", { sub: "dan", aud: audience });
  const { body } = await me(app, token);
  const admin = await newPerson(app.db, "admin");

  const response = await fetch(`${app.url}/api/v1/users/${body.id}`, {
    method: "DELETE",
    headers: { authorization: `Bearer ${admin.token}` },
  });

  expect(response.status).toBe(200);
  expect((await me(app, token)).status).toBe(401);
});

test("while a provider is away its known keys hold, and nobody else notices", async () => {
  await using world = await start();
  const { app, provider } = world;
  const other = await newPerson(app.db);
  const token = await provider.token("k1", { sub: "fay", aud: audience });
  expect((await me(app, token)).status).toBe(200);

  provider.setAway(true);
  const asked = provider.requests.length;
  const forged = token.replace(
    /^[^.]+/,
    Buffer.from('{"alg":"RS256","kid":"k2"}').toString("base64url"),
  );
  const statuses = await Promise.all(
    [token, forged, other.token, token].map((one) => me(app, one)),
  );

  expect(statuses.map(({ status }) => status)).toEqual([200, 401, 200, 200]);
  expect(provider.requests.length).toBe(asked);
});

test("a provider that never answered is not asked for each call, and stops nobody else", async () => {
  await using world = await start();
  const { app, provider } = world;
  provider.setAway(true);
  const other = await newPerson(app.db);
  const token = await provider.token("k1", { sub: "gus", aud: audience });

  const first = await me(app, token);
  const asked = provider.requests.length;
  const more = await Promise.all(Array.from({ length: 20 }, () => me(app, token)));

  expect(first.status).toBe(503);
  expect(JSON.stringify(first.body)).toContain("ISSUER_UNAVAILABLE");
  expect(new Set(more.map(({ status }) => status))).toEqual(new Set([503]));
  expect(provider.requests.length).toBe(asked);
  expect((await me(app, other.token)).status).toBe(200);
  expect((await me(app, await makeToken(app.db, other))).status).toBe(200);
});

test("a rotated key is found once the last look is old enough, and a removed one is refused", async () => {
  await using world = await start();
  const { app, provider } = world;
  const { issuer } = provider;
  const reader = externalReader({
    db: app.db,
    issuers: [{ issuer, audience, kind: "oidc", jwksUrl: `${issuer}/keys` }],
    now: () => new Date(),
    cooldownMs: 0,
  });
  const read = (token: string) => reader(callWith(token));
  const old = await provider.token("k1", { sub: "hal", aud: audience });
  expect(await read(old)).toMatchObject({ credential: "external", credentialId: `${issuer}#hal` });

  await provider.addKey("k2");
  provider.removeKey("k1");
  const fresh = await provider.token("k2", { sub: "hal", aud: audience });

  expect(await read(fresh)).toMatchObject({ credential: "external" });
  expect(await read(old)).toBeUndefined();
  provider.setAway(true);
  expect(await read(fresh)).toMatchObject({ credential: "external" });
});
