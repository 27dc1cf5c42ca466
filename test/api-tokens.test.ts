import { createHash } from "node:crypto";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { Code } from "@connectrpc/connect";
import { expect } from "vitest";
import { AuthService } from "../gen/callora/accounts/v1/auth_service_pb.ts";
import { UserService } from "../gen/callora/accounts/v1/user_service_pb.ts";
import { insertAuthRow } from "../src/accounts/auth-store.ts";
import { cookieReader } from "../src/accounts/cookie-reader.ts";
import { createLastUses } from "../src/accounts/last-uses.ts";
import { personAuthenticator, rememberPeople } from "../src/accounts/people.ts";
import { rememberSessions } from "../src/accounts/session-memory.ts";
import { tokenReader } from "../src/accounts/token-reader.ts";
import { newId } from "../src/lib/id.ts";
import { startTestApp, until } from "./support/app.ts";
import { callWith } from "./support/call.ts";
import { heldTrust } from "./support/direct-trust.ts";
import { newPerson } from "./support/people.ts";
import { asSuperuser } from "./support/superuser.ts";
import { test } from "./support/test.ts";
import { makeSession } from "./support/tokens.ts";

const refused = { code: Code.Unauthenticated };

test("a token is made, used, listed and revoked in the documented bodies", async ({ app }) => {
  const session = await makeSession(app.db, await newPerson(app.db));
  const call = async (method: string, path: string, body?: object) => {
    const response = await fetch(`${app.url}/api/v1/auth/tokens${path}`, {
      method,
      headers: { authorization: `Bearer ${session.token}`, "content-type": "application/json" },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    return { status: response.status, body: await response.json() };
  };

  const made = await call("POST", "", { name: "ci" });
  expect(made).toMatchObject({
    status: 200,
    body: {
      id: expect.stringMatching(/^tok_/),
      name: "ci",
      token: expect.stringMatching(/^ora_[A-Za-z0-9_-]{43}$/),
      created_at: expect.any(String),
    },
  });
  const { id, token } = made.body;
  await expect(app.client(AuthService, token).getMe({})).resolves.toBeDefined();
  const listed = await call("GET", "");
  expect(listed.body.total).toBe(2);
  expect(listed.body.tokens[0]).toMatchObject({ id, name: "ci", is_revoked: false });
  expect(JSON.stringify(listed.body)).not.toContain(token);

  const gone = { status: 200, body: { status: "success", message: "Token revoked" } };
  expect(await call("DELETE", `/${id}`)).toEqual(gone);
  expect(await call("DELETE", `/${id}`)).toEqual(gone);
  await expect(app.client(AuthService, token).getMe({})).rejects.toMatchObject(refused);
  expect((await call("GET", "")).body.tokens[0]).toMatchObject({ id, is_revoked: true });
});

test("only the hash of a token is kept", async ({ app }) => {
  const me = await makeSession(app.db, await newPerson(app.db));
  const { id, token } = await app.client(AuthService, me.token).createToken({ name: "x" });

  const { rows } = await asSuperuser(app, (client) =>
    client.query("select token_hash from api_token_directory where token_id = $1", [id]),
  );

  expect(rows).toEqual([{ token_hash: createHash("sha256").update(token).digest() }]);
});

test("a token ends with its time", async () => {
  let laterMs = 0;
  await using app = await startTestApp({}, { now: () => new Date(Date.now() + laterMs) });
  const me = await makeSession(app.db, await newPerson(app.db));
  const expireTime = timestampFromMs(Date.now() + 60_000);
  const { token } = await app.client(AuthService, me.token).createToken({ name: "x", expireTime });
  const auth = app.client(AuthService, token);
  await expect(auth.getMe({})).resolves.toBeDefined();

  laterMs = 60_000;

  await expect(auth.getMe({})).rejects.toMatchObject(refused);
});

test("a token makes no other, which would outlive its end and its revocation", async ({ app }) => {
  const me = await newPerson(app.db);
  const auth = app.client(AuthService, me.token);

  const made = auth.createToken({ name: "x", expireTime: timestampFromMs(Date.now() + 60_000) });

  await expect(made).rejects.toMatchObject({ code: Code.PermissionDenied });
  expect((await auth.listTokens({})).total).toBe(1);
});

test("ended tokens hide none that is good for something", async ({ app }) => {
  const { accountId, userId, token } = await newPerson(app.db);
  await asSuperuser(app, (client) =>
    client.query(`
      insert into api_tokens (account_id, id, user_id, name, expire_at)
      select '${accountId}', 'tok_v' || lpad(n::text, 25, '0'), '${userId}', 'short', now()
      from generate_series(1, 201) as n
    `),
  );

  const { tokens, total } = await app.client(AuthService, token).listTokens({});

  expect(tokens.map(({ name }) => name)).toContain("test");
  expect([tokens.length, total]).toEqual([200, 202]);
});

test("when a token was last used is written down soon", async ({ app }) => {
  const me = await newPerson(app.db);
  const auth = app.client(AuthService, me.token);
  const before = Date.now();

  await until(async () => (await auth.listTokens({})).tokens[0]?.lastUseTime !== undefined);

  const { tokens } = await auth.listTokens({});
  expect(Number(tokens[0]?.lastUseTime?.seconds) * 1000).toBeGreaterThanOrEqual(before - 1000);
});

test("nobody lists or revokes another person's token, but an admin does", async ({ app }) => {
  const [mine, theirs] = [await newPerson(app.db), await newPerson(app.db)];
  const { id: tokenId, token } = await app
    .client(AuthService, (await makeSession(app.db, theirs)).token)
    .createToken({ name: "x" });
  const { userId } = theirs;

  const mineToo = app.client(AuthService, mine.token).revokeToken({ tokenId });
  await expect(mineToo).rejects.toMatchObject({ code: Code.NotFound });
  await expect(app.client(AuthService, token).getMe({})).resolves.toBeDefined();

  const admin = app.client(UserService, (await newPerson(app.db, "admin")).token);
  expect((await admin.listUserTokens({ userId })).tokens[0]).toMatchObject({ id: tokenId });
  const misfit = admin.revokeUserToken({ userId: mine.userId, tokenId });
  await expect(misfit).rejects.toMatchObject({ code: Code.NotFound });
  await admin.revokeUserToken({ userId, tokenId });
  await expect(app.client(AuthService, token).getMe({})).rejects.toMatchObject(refused);
});

test("an admin does not revoke the token of a super admin", async ({ app }) => {
  const boss = await newPerson(app.db, "super_admin");
  const session = await makeSession(app.db, boss);
  const { id: tokenId } = await app.client(AuthService, session.token).createToken({ name: "x" });
  const admin = app.client(UserService, (await newPerson(app.db, "admin")).token);

  const outcome = admin.revokeUserToken({ userId: boss.userId, tokenId });

  await expect(outcome).rejects.toMatchObject({ code: Code.PermissionDenied });
});

test("whoever is remembered is known without a promise, by token and by cookie alike", async ({
  app,
}) => {
  const { db } = app;
  const trust = heldTrust;
  const { accountId, userId, token } = await newPerson(db);
  const cookie = "a".repeat(32);
  await db.systemTransaction((tx) =>
    insertAuthRow(tx, "sessions", {
      id: newId("ses", new Date()),
      user_id: userId,
      token: cookie,
      expire_at: new Date(Date.now() + 60_000),
    }),
  );
  const now = () => new Date();
  const sessions = rememberSessions({ db, trust });
  const [secret, isSecure, origins] = ["x", () => false, () => new Set<string>()];
  const authenticate = personAuthenticator({
    readers: [
      cookieReader({ sessions, secret, isSecure, origins, now }),
      tokenReader({ db, trust, uses: createLastUses(), now }),
    ],
    people: rememberPeople({ db, trust }),
  });
  const ask = (credential: string) => authenticate(callWith(credential));

  for (const [credential, name] of [
    [token, "token"],
    [cookie, "session"],
  ] as const) {
    await ask(credential);
    expect(ask(credential)).toMatchObject({
      kind: "user",
      id: userId,
      accountId,
      credential: name,
    });
  }
});
