import { test as base, expect } from "vitest";
import { AuthService } from "../gen/callora/accounts/v1/auth_service_pb.ts";
import { UserService } from "../gen/callora/accounts/v1/user_service_pb.ts";
import { insertMember } from "../src/accounts/member-store.ts";
import { must, startTestApp } from "./support/app.ts";
import { newPerson } from "./support/people.ts";
import { callora, makeDataDir } from "./support/process.ts";
import { asSuperuser } from "./support/superuser.ts";
import { makeToken } from "./support/tokens.ts";
import { mailedLink, newEmail, type Visitor, visit } from "./support/visitor.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;

const test = base.extend<{ $file: { app: App } }>({
  app: [
    // biome-ignore lint/correctness/noEmptyPattern: vitest reads the pattern
    async ({}, use) => {
      await using app = await startTestApp({ TRUSTED_PROXIES: "127.0.0.1" });
      await use(app);
    },
    { scope: "file" },
  ],
});

const password = "a long enough password";
const me = "/api/v1/auth/me";
const refused = { cookie: 401, jwt: 401, token: 401 };
const taken = { cookie: 200, jwt: 200, token: 200 };

/** A person who signed in by cookie and by JWT, and made an API token; each was used, so the server remembers it. */
async function newcomer(app: App) {
  const visitor = visit(app);
  const email = newEmail();
  const { body } = await visitor.post("/api/auth/sign-up/email", { name: "Ada", email, password });
  const { id: userId, accountId } = (body as { user: { id: string; accountId: string } }).user;
  const jwt = await signIn(app, email);
  const token = await makeToken(app.db, { accountId, userId });
  const person = { visitor, email, userId, accountId, jwt, token };
  expect(await statuses(app, person)).toEqual(taken);
  return person;
}

async function signIn(app: App, username: string): Promise<string> {
  const { body } = await visit(app).post("/api/v1/auth/login", { username, password });
  return (body as { access_token: string }).access_token;
}

/** What each of a person's credentials gets. */
async function statuses(
  app: App,
  { visitor, jwt, token }: { visitor: Visitor; jwt: string; token: string },
) {
  const by = async (bearer: string) =>
    (await visit(app).get(me, { authorization: `Bearer ${bearer}` })).status;
  return { cookie: (await visitor.get(me)).status, jwt: await by(jwt), token: await by(token) };
}

async function resetLink(app: App, email: string): Promise<string> {
  await visit(app).post("/api/auth/request-password-reset", { email });
  const link = await mailedLink(app, { to: email, subject: "Choose a new password" });
  return must(/reset-password\/([^?]+)/.exec(link)?.[1]);
}

const resetBy = (app: App, token: string) =>
  visit(app).post("/api/auth/reset-password", { token, newPassword: "another password" });

test("deactivating ends all that a person can call with, and activating brings none back", async ({
  app,
}) => {
  const person = await newcomer(app);
  const { userId, email, visitor } = person;
  const link = await resetLink(app, email);
  const users = app.client(UserService, (await app.admin()).token);

  await users.deactivateUser({ userId });

  expect(await statuses(app, person)).toEqual(refused);
  expect((await visitor.get("/api/auth/get-session")).body).toBeNull();
  const changes = {
    "/update-user": { name: "Eve" },
    "/change-password": { currentPassword: password, newPassword: "another password" },
    "/sign-in/email": { email, password },
  };
  for (const [path, body] of Object.entries(changes)) {
    expect([path, (await visitor.post(`/api/auth${path}`, body)).status]).toEqual([path, 401]);
  }
  expect(await signIn(app, email)).toBeUndefined();
  expect((await resetBy(app, link)).status).toBe(400);
  await users.updateUser({ userId, isActive: true });
  expect(await statuses(app, person)).toEqual(refused);
  expect(await signIn(app, email)).toMatch(/^eyJ/);
});

test("a person who made any number of short-lived tokens can be deactivated", async ({ app }) => {
  const person = await newcomer(app);
  const { accountId, userId } = person;
  await asSuperuser(app, (client) =>
    client.query(`
      with made as (
        insert into api_tokens (account_id, id, user_id, name, expire_at)
        select '${accountId}', 'tok_' || lpad(n::text, 26, '0'), '${userId}', 'short', now()
        from generate_series(1, 10001) as n
        returning account_id, id
      )
      insert into api_token_directory (token_hash, account_id, token_id)
      select sha256(id::bytea), account_id, id from made
    `),
  );

  await app.client(UserService, (await app.admin()).token).deactivateUser({ userId });

  expect(await statuses(app, person)).toEqual(refused);
});

test("a password that is reset by mail ends sessions of both kinds, and API tokens", async ({
  app,
}) => {
  const person = await newcomer(app);

  const { status } = await resetBy(app, await resetLink(app, person.email));

  expect(status).toBe(200);
  expect(await statuses(app, person)).toEqual(refused);
});

test("a password that is changed may end all other sessions, signed tokens among them", async ({
  app,
}) => {
  const person = await newcomer(app);
  const change = { currentPassword: password, newPassword: "another password" };

  const { status } = await person.visitor.post("/api/auth/change-password", {
    ...change,
    revokeOtherSessions: true,
  });

  expect(status).toBe(200);
  expect(await statuses(app, person)).toEqual({ ...taken, jwt: 401 });
});

test("each side lists and ends the sessions of the other", async ({ app }) => {
  const { visitor, jwt, ...person } = await newcomer(app);
  const second = await signIn(app, person.email);
  const auth = app.client(AuthService, second);
  const { sessions } = await auth.listSessions({});
  const byMethod = Object.groupBy(sessions, ({ method }) => method);
  expect([byMethod.cookie?.length, byMethod.password?.length]).toEqual([1, 2]);
  const first = must(byMethod.password?.find(({ isCurrent }) => !isCurrent));

  await visitor.post("/api/auth/revoke-session", { token: first.id });
  expect(await statuses(app, { visitor, jwt, ...person })).toEqual({ ...taken, jwt: 401 });
  await auth.revokeSession({ sessionId: must(byMethod.cookie?.[0]).id });

  expect(await statuses(app, { visitor, jwt: second, ...person })).toEqual({
    ...taken,
    cookie: 401,
  });
  expect((await visitor.get("/api/auth/get-session")).body).toBeNull();
});

test("SignOut ends the session of a cookie too", async ({ app }) => {
  const person = await newcomer(app);

  const { status } = await person.visitor.post("/api/v1/auth/logout", {});

  expect(status).toBe(200);
  expect(await statuses(app, person)).toEqual({ ...taken, cookie: 401 });
  expect((await person.visitor.get("/api/auth/get-session")).body).toBeNull();
});

test("an address that an admin changes is not proved, and what was mailed to the old one is void", async ({
  app,
}) => {
  const { userId, visitor, email } = await newcomer(app);
  const link = await mailedLink(app, { to: email, subject: "Confirm your address" });
  await visitor.get(link);
  const verified = async () =>
    ((await visitor.get("/api/auth/get-session")).body as { user: { emailVerified: boolean } }).user
      .emailVerified;
  expect(await verified()).toBe(true);
  const reset = await resetLink(app, email);
  const users = app.client(UserService, (await app.admin()).token);

  await users.updateUser({ userId, email: email.toUpperCase() });
  expect(await verified()).toBe(true);
  await users.updateUser({ userId, email: newEmail() });

  expect(await verified()).toBe(false);
  expect((await resetBy(app, reset)).status).toBe(400);
});

test("a visitor by cookie acts for an account as its members may", async ({ app }) => {
  const { visitor, userId } = await newcomer(app);
  const { accountId } = await newPerson(app.db);
  const header = { "x-account-id": accountId, "sec-fetch-site": "same-origin" };
  const read = async () => (await visitor.get("/api/v1/account", header)).status;
  const write = () => visitor.post("/v1/secret", {}, header);
  expect(await read()).toBe(404);

  await app.db.systemTransaction(async (tx) => {
    await insertMember(tx, { accountId, userId, role: "viewer" });
    await app.trust.announce(tx, "user", [userId]);
  });

  await expect.poll(read).toBe(200);
  expect(await write()).toMatchObject({
    status: 403,
    body: {
      details: expect.arrayContaining([expect.objectContaining({ reason: "VIEWER_READ_ONLY" })]),
    },
  });
});

test("admin reset ends on a running server all that the person can call with", async ({ app }) => {
  const person = await newcomer(app);
  await using dir = await makeDataDir();
  const { app: url, owner, worker } = app.urls;
  const env = { DATABASE_URL: url, DATABASE_MIGRATE_URL: owner, DATABASE_WORKER_URL: worker };

  const { code } = await callora(["admin", "reset", person.email], { dataDir: dir.path, env });

  expect(code).toBe(0);
  expect(await statuses(app, person)).toEqual(refused);
});
