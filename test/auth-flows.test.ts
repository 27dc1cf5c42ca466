import { createHash } from "node:crypto";
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { Code } from "@connectrpc/connect";
import { expect } from "vitest";
import { AuthService } from "../gen/callora/accounts/v1/auth_service_pb.ts";
import { must } from "./support/app.ts";
import { githubUser, test, throughGithub } from "./support/github-test.ts";
import {
  actionsOf,
  enableTotp,
  me,
  password,
  pathOf,
  resetSubject,
  sessionOf,
  signIn,
  signUp,
  totp,
  verifySubject,
} from "./support/sign-in.ts";
import { asSuperuser } from "./support/superuser.ts";
import { mailedLink, newEmail, visit } from "./support/visitor.ts";

test("the link in the mail verifies an address", async ({ app }) => {
  const { visitor, email } = await signUp(app);
  const link = await mailedLink(app, { to: email, subject: verifySubject });

  const answer = await visit(app).get(pathOf(link), { "sec-fetch-site": "cross-site" });

  expect(new URL(link).origin).toBe(app.url.replace("127.0.0.1", "localhost"));
  expect(answer.status).toBe(302);
  expect(answer.headers.get("location")).toBe("/");
  expect(await sessionOf(visitor)).toMatchObject({ user: { emailVerified: true } });
});

test("a link that was changed verifies nothing", async ({ app }) => {
  const { visitor, email } = await signUp(app);
  const link = await mailedLink(app, { to: email, subject: verifySubject });
  const token = must(new URL(link).searchParams.get("token"));

  const answer = await visitor.get(`/api/auth/verify-email?token=${token.slice(0, -4)}AAAA`);

  expect(answer).toMatchObject({ status: 401, body: { code: "INVALID_TOKEN" } });
  expect(await sessionOf(visitor)).toMatchObject({ user: { emailVerified: false } });
});

test("a password is reset once by mail, and every session ends", async ({ app }) => {
  const { visitor, email, token } = await signUp(app);
  const asked = await visit(app).post("/api/auth/forget-password", { email });
  const link = await mailedLink(app, { to: email, subject: resetSubject });
  const resetToken = must(/reset-password\/([^?]+)/.exec(link)?.[1]);
  const reset = (newPassword: string) =>
    visit(app).post("/api/auth/reset-password", { token: resetToken, newPassword });

  const short = await reset("short");
  const answers = await Promise.all([reset("another password 1"), reset("another password 2")]);
  const later = await reset("another password 3");

  expect(asked).toMatchObject({ status: 200, body: { status: true } });
  expect(short).toMatchObject({ status: 400, body: { code: "PASSWORD_TOO_SHORT" } });
  expect(answers.map(({ status }) => status).sort()).toEqual([200, 400]);
  expect(later).toMatchObject({ status: 400, body: { code: "INVALID_TOKEN" } });
  expect(await sessionOf(visitor)).toBeNull();
  expect((await visitor.get(me)).status).toBe(401);
  expect((await visit(app).get(me, { authorization: `Bearer ${token}` })).status).toBe(401);
  const chosen = `another password ${answers.findIndex(({ status }) => status === 200) + 1}`;
  expect((await signIn(visit(app), email)).status).toBe(401);
  expect((await signIn(visit(app), email, chosen)).status).toBe(200);
});

test("a reset ends sessions that were opened over RPC too", async ({ app }) => {
  const { email } = await signUp(app);
  const { accessToken } = await app
    .client(AuthService)
    .passwordLogin({ username: email, password });
  await visit(app).post("/api/auth/request-password-reset", { email });
  const link = await mailedLink(app, { to: email, subject: resetSubject });

  await visit(app).post("/api/auth/reset-password", {
    token: must(/reset-password\/([^?]+)/.exec(link)?.[1]),
    newPassword: "another password",
  });

  const outcome = app.client(AuthService, accessToken).getMe({});
  await expect(outcome).rejects.toMatchObject({ code: Code.Unauthenticated });
});

test("whoever asks to reset an unknown address learns nothing", async ({ app }) => {
  const { email } = await signUp(app);
  const path = "/api/auth/request-password-reset";

  const known = await visit(app).post(path, { email });
  const unknown = await visit(app).post(path, { email: newEmail() });

  expect([unknown.status, unknown.body]).toEqual([known.status, known.body]);
});

test("links lead to our own pages only", async ({ app }) => {
  const { email } = await signUp(app);

  const reset = await visit(app).post("/api/auth/request-password-reset", {
    email,
    redirectTo: "https://evil.example/steal",
  });
  const social = await visit(app).post("/api/auth/sign-in/social", {
    provider: "github",
    callbackURL: "https://evil.example/",
  });

  expect(reset.status).toBe(403);
  expect(social.status).toBe(403);
});

test("change-password asks for the old one, and may end other sessions", async ({ app }) => {
  const { visitor, email } = await signUp(app);
  const other = visit(app);
  await signIn(other, email);
  const change = (currentPassword: string) =>
    visitor.post("/api/auth/change-password", {
      currentPassword,
      newPassword: "another password",
      revokeOtherSessions: true,
    });

  const wrong = await change("not the password");
  const right = await change(password);

  expect(wrong).toMatchObject({ status: 400, body: { code: "INVALID_PASSWORD" } });
  expect(right.status).toBe(200);
  expect(await sessionOf(other)).toBeNull();
  expect(await sessionOf(visitor)).not.toBeNull();
});

test("with a second factor a password alone opens nothing", async ({ app }) => {
  const { visitor, email, userId } = await signUp(app);
  const { totpURI } = await enableTotp(visitor);
  const login = visit(app);

  const first = await signIn(login, email);
  const between = await sessionOf(login);
  const wrong = await login.post("/api/auth/two-factor/verify-totp", { code: "000000" });
  const second = await login.post("/api/auth/two-factor/verify-totp", { code: totp(totpURI) });

  expect(first).toMatchObject({
    status: 200,
    body: { twoFactorRedirect: true, twoFactorMethods: ["totp"] },
  });
  expect(JSON.stringify(first.body)).not.toContain("token");
  expect(between).toBeNull();
  expect(wrong.status).toBe(401);
  expect(second).toMatchObject({ status: 200, body: { token: expect.any(String) } });
  expect(await actionsOf(app, userId)).toEqual([
    "user.sign_up password",
    "user.login password",
    "user.totp_enable",
    "user.login password, second factor asked unless the device is trusted",
    "user.login refused",
    "user.login totp",
  ]);
  expect((await login.get(me)).status).toBe(200);
  const rpc = app.client(AuthService).passwordLogin({ username: email, password });
  await expect(rpc).rejects.toMatchObject({ code: Code.PermissionDenied });
});

test("a backup code works once", async ({ app }) => {
  const { visitor, email } = await signUp(app);
  const { backupCodes } = await enableTotp(visitor);
  const use = async () => {
    const login = visit(app);
    await signIn(login, email);
    const code = backupCodes[0];
    return (await login.post("/api/auth/two-factor/verify-backup-code", { code })).status;
  };

  expect([await use(), await use()]).toEqual([200, 401]);
});

test("the second factor is encrypted where it is kept", async ({ app }) => {
  const { visitor, userId } = await signUp(app);
  const { totpURI, backupCodes } = await enableTotp(visitor);

  const { rows } = await asSuperuser(app, (client) =>
    client.query("select secret, backup_codes from second_factors where user_id = $1", [userId]),
  );

  const stored = JSON.stringify(rows);
  const secret = must(new URL(totpURI).searchParams.get("secret"));
  expect(rows).toHaveLength(1);
  expect(stored).not.toContain(secret);
  expect(backupCodes.filter((code) => stored.includes(code))).toEqual([]);
});

test("new backup codes are in the audit log", async ({ app }) => {
  const { visitor, userId } = await signUp(app);
  await enableTotp(visitor);

  const made = await visitor.post("/api/auth/two-factor/generate-backup-codes", { password });

  expect(made.status).toBe(200);
  expect((await actionsOf(app, userId)).slice(2)).toEqual([
    "user.totp_enable",
    "user.backup_codes",
  ]);
});

test("the audit log has every change, in order", async ({ app }) => {
  const { visitor, email, userId } = await signUp(app);
  await visit(app).get(pathOf(await mailedLink(app, { to: email, subject: verifySubject })));
  await visitor.post("/api/auth/update-user", { name: "Grace" });
  await enableTotp(visitor);
  await visitor.post("/api/auth/two-factor/disable", { password });
  await visitor.post("/api/auth/change-password", {
    currentPassword: password,
    newPassword: password,
  });
  await visitor.post("/api/auth/sign-out", {});
  const later = visit(app);
  await signIn(later, email);
  await later.post("/api/auth/revoke-sessions", {});

  expect(await actionsOf(app, userId)).toEqual([
    "user.sign_up password",
    "user.login password",
    "user.email_verify",
    "user.update",
    "user.totp_enable",
    "user.totp_disable",
    "user.password_change",
    "user.logout",
    "user.login password",
    "session.revoke",
  ]);
});

test("resetting and signing in with GitHub are in the audit log; so is a refusal", async ({
  app,
  github,
}) => {
  const user = githubUser();
  github.be(user);
  const visitor = visit(app);
  await throughGithub(visitor);
  const session = (await sessionOf(visitor)) as { user: { id: string } };
  const email = must(user.email);
  await visit(app).post("/api/auth/request-password-reset", { email });
  const link = await mailedLink(app, { to: email, subject: resetSubject });
  await visit(app).post("/api/auth/reset-password", {
    token: must(/reset-password\/([^?]+)/.exec(link)?.[1]),
    newPassword: password,
  });
  await signIn(visit(app), email, "a wrong password");

  expect(await actionsOf(app, session.user.id)).toEqual([
    "user.sign_up github",
    "user.link github",
    "user.login github",
    "session.revoke",
    "user.password_reset",
  ]);
  const { rows } = await asSuperuser(app, (client) =>
    client.query("select action, outcome, actor_user_id from audit_logs where outcome = 'refused'"),
  );
  expect(rows).toContainEqual({ action: "user.login", outcome: "refused", actor_user_id: "" });
});

test("no secret is in the database, the log or the names of the outbox", async ({
  app,
  github,
}) => {
  github.be(githubUser());
  await throughGithub(visit(app));
  const { visitor, email } = await signUp(app);
  await visit(app).post("/api/auth/request-password-reset", { email });
  const reset = must(
    /reset-password\/([^?]+)/.exec(
      await mailedLink(app, { to: email, subject: resetSubject }),
    )?.[1],
  );
  const verify = must(
    new URL(await mailedLink(app, { to: email, subject: verifySubject })).searchParams.get("token"),
  );
  const { totpURI } = await enableTotp(visitor);
  const cookie = must(visitor.cookies.get("better-auth.session_token"));
  const [token = ""] = cookie.split(".");
  const secrets = [
    password,
    token,
    reset,
    verify,
    cookie,
    must(new URL(totpURI).searchParams.get("secret")),
    ...github.tokens.keys(),
  ];

  const dump = await asSuperuser(app, async (client) => {
    const { rows } = await client.query(
      "select relname from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace",
    );
    const parts = [];
    for (const { relname } of rows) {
      const table = await client.query(`select t::text as line from ${relname} as t`);
      parts.push(...table.rows.map(({ line }) => line));
    }
    return parts.join("\n");
  });
  const names = (await readdir(join(app.directory, "outbox"))).join("\n");

  expect(dump.includes(createHash("sha256").update(token).digest("hex"))).toBe(true);
  for (const secret of secrets) {
    expect(dump.includes(secret)).toBe(false);
    expect(app.lines.join("\n").includes(secret)).toBe(false);
    expect(names.includes(secret)).toBe(false);
  }
  expect(app.lines.join("\n").includes(email)).toBe(false);
});

test("only this user may read the outbox", async ({ app }) => {
  const { email } = await signUp(app);
  await mailedLink(app, { to: email, subject: verifySubject });
  const outbox = join(app.directory, "outbox");

  const modes = await Promise.all(
    [outbox, ...(await readdir(outbox)).map((name) => join(outbox, name))].map(
      async (path) => (await stat(path)).mode & 0o777,
    ),
  );

  expect(modes[0]).toBe(0o700);
  expect(new Set(modes.slice(1))).toEqual(new Set([0o600]));
});
