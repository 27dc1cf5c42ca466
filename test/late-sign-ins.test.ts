import { test as base, expect } from "vitest";
import { endCredentials } from "../src/accounts/ending.ts";
import { listSessions } from "../src/accounts/session-store.ts";
import { newId } from "../src/lib/id.ts";
import { startTestApp } from "./support/app.ts";
import { changeAmid } from "./support/superuser.ts";
import { mailedLink, newEmail, visit } from "./support/visitor.ts";

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

async function newcomer(app: App) {
  const email = newEmail();
  const { body } = await visit(app).post("/api/auth/sign-up/email", { name: "A", email, password });
  const { id: userId, accountId } = (body as { user: { id: string; accountId: string } }).user;
  return { email, userId, accountId };
}

type Newcomer = Awaited<ReturnType<typeof newcomer>>;

const lockOf = ({ userId }: Newcomer) => `select from users where id = '${userId}' for update`;

const ends = {
  "the password is changed": ({ userId }: Newcomer) =>
    `update sign_in_methods set password_hash = 'x' where user_id = '${userId}'`,
  "the person is deactivated": ({ userId }: Newcomer) =>
    `update users set active = false where id = '${userId}'`,
};

const ways = {
  "a token": (app: App, { email: username }: Newcomer) =>
    visit(app).post("/api/v1/auth/login", { username, password }),
  "a cookie": (app: App, { email }: Newcomer) =>
    visit(app).post("/api/auth/sign-in/email", { email, password }),
};

for (const [end, statementOf] of Object.entries(ends)) {
  for (const [way, signIn] of Object.entries(ways)) {
    test(`a sign-in that is under way while ${end} gets no session by ${way}`, async ({ app }) => {
      const person = await newcomer(app);
      expect((await signIn(app, person)).status).toBe(200);

      const { status } = await changeAmid(app, [lockOf(person), statementOf(person)], () =>
        signIn(app, person),
      );

      expect(status).toBe(401);
    });
  }
}

/** A sign-in under way: it has a session that nobody else sees yet. */
function signInOf({ userId, accountId }: Newcomer, sessionId: string) {
  return [
    `select from users where id = '${userId}' for share`,
    `insert into sessions (id, account_id, user_id, method, expire_at)
     values ('${sessionId}', '${accountId}', '${userId}', 'cookie', now() + interval '1 hour')`,
  ];
}

async function isLive({ db }: App, person: Newcomer): Promise<boolean> {
  const rows = await db.tenantRead(person.accountId, (tx) =>
    listSessions(tx, { ...person, now: new Date() }),
  );
  return rows.length > 0;
}

test("a password that is reset by mail ends the session of a sign-in that is under way", async ({
  app,
}) => {
  const person = await newcomer(app);
  const { email } = person;
  await visit(app).post("/api/auth/request-password-reset", { email });
  const link = await mailedLink(app, { to: email, subject: "Choose a new password" });
  const token = /reset-password\/([^?]+)/.exec(link)?.[1];

  const { status } = await changeAmid(app, signInOf(person, newId("ses", new Date())), () =>
    visit(app).post("/api/auth/reset-password", { token, newPassword: "another password" }),
  );

  expect(status).toBe(200);
  expect(await isLive(app, person)).toBe(false);
});

test("ending all that a person calls with ends the session of a sign-in that is under way", async ({
  app,
}) => {
  const person = await newcomer(app);
  const user = { id: person.userId, account_id: person.accountId };

  await changeAmid(app, signInOf(person, newId("ses", new Date())), () =>
    app.db.systemTransaction((tx) => endCredentials(tx, app.trust, { user, now: new Date() })),
  );

  expect(await isLive(app, person)).toBe(false);
});
