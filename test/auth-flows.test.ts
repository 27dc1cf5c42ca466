import { createHash, createHmac, randomInt } from "node:crypto";
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { Code } from "@connectrpc/connect";
import { test as base, expect, onTestFinished } from "vitest";
import { AuthService } from "../gen/callora/accounts/v1/auth_service_pb.ts";
import { must, startTestApp } from "./support/app.ts";
import { type GithubUser, startGithub } from "./support/github.ts";
import { asSuperuser } from "./support/superuser.ts";
import { mailedLink, newEmail, type Visitor, visit } from "./support/visitor.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;
type Github = Awaited<ReturnType<typeof startGithub>>;

/** When the server's clock stands still: no wait of seconds is over before the next call then. */
let stoppedAt: Date | undefined;

/** Stop the server's clock until the test is over. */
function stopClock(): void {
  stoppedAt = new Date();
  onTestFinished(() => {
    stoppedAt = undefined;
  });
}

const githubApp = { clientId: "an-app", clientSecret: "the-secret-of-the-app" };

const test = base.extend<{ $file: { github: Github; app: App } }>({
  github: [
    // biome-ignore lint/correctness/noEmptyPattern: vitest reads the pattern
    async ({}, use) => {
      await using github = await startGithub(githubApp);
      await use(github);
    },
    { scope: "file" },
  ],
  app: [
    async ({ github }, use) => {
      const env = {
        TRUSTED_PROXIES: "127.0.0.1",
        GITHUB_CLIENT_ID: githubApp.clientId,
        GITHUB_CLIENT_SECRET: githubApp.clientSecret,
        GITHUB_URL: github.url,
        GITHUB_API_URL: github.apiUrl,
      };
      await using app = await startTestApp(env, { now: () => stoppedAt ?? new Date() });
      await use(app);
    },
    { scope: "file" },
  ],
});

const password = "a long enough password";
const me = "/api/v1/auth/me";
const verifySubject = "Confirm your address";
const resetSubject = "Choose a new password";

async function signUp(app: App, email = newEmail()) {
  const visitor = visit(app);
  const { body } = await visitor.post("/api/auth/sign-up/email", { name: "Ada", email, password });
  const { user, token } = body as { user: { id: string }; token: string };
  return { visitor, email, userId: user.id, token };
}

function signIn(visitor: Visitor, email: string, word = password) {
  return visitor.post("/api/auth/sign-in/email", { email, password: word });
}

async function sessionOf(visitor: Visitor): Promise<unknown> {
  return (await visitor.get("/api/auth/get-session")).body;
}

/** The path of a link that was mailed, whatever the host. */
function pathOf(link: string): string {
  const { pathname, search } = new URL(link);
  return pathname + search;
}

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

/** The code that an authenticator app shows (RFC 6238), written from the RFC. */
function totp(uri: string, now = Date.now()): string {
  const secret = must(new URL(uri).searchParams.get("secret"));
  const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
  const bits = [...secret].map((one) => alphabet.indexOf(one).toString(2).padStart(5, "0"));
  const bytes = must(bits.join("").match(/.{8}/g)).map((byte) => Number.parseInt(byte, 2));
  const counter = Buffer.alloc(8);
  counter.writeBigUInt64BE(BigInt(Math.floor(now / 30_000)));
  const mac = createHmac("sha1", Buffer.from(bytes)).update(counter).digest();
  const offset = must(mac.at(-1)) & 15;
  return String((mac.readUInt32BE(offset) & 0x7f_ff_ff_ff) % 1_000_000).padStart(6, "0");
}

async function enableTotp(visitor: Visitor) {
  const enabled = await visitor.post("/api/auth/two-factor/enable", { password });
  const { totpURI, backupCodes } = enabled.body as { totpURI: string; backupCodes: string[] };
  const verified = await visitor.post("/api/auth/two-factor/verify-totp", { code: totp(totpURI) });
  expect(verified.status).toBe(200);
  return { totpURI, backupCodes };
}

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

function githubUser(change: Partial<GithubUser> = {}): GithubUser {
  const email = newEmail();
  const emails = [{ email, primary: true, verified: true }];
  return { id: randomInt(1, 2 ** 31), login: "octo", name: "Octo Cat", email, emails, ...change };
}

/** Go to GitHub and back, as a browser does. Returns where the browser is led in the end. */
async function throughGithub(visitor: Visitor, { tamper = (url: URL) => url } = {}) {
  const begun = await visitor.post("/api/auth/sign-in/social", {
    provider: "github",
    callbackURL: "/welcome",
    errorCallbackURL: "/oops",
  });
  expect(begun).toMatchObject({ status: 200, body: { redirect: true } });
  const { url } = begun.body as { url: string };
  const authorized = await fetch(url, { redirect: "manual" });
  const back = tamper(new URL(must(authorized.headers.get("location"))));
  const arrived = await visitor.get(back.pathname + back.search, {
    "sec-fetch-site": "cross-site",
  });
  return { back, location: must(arrived.headers.get("location")) };
}

test("GitHub signs in a new person, and the same one again", async ({ app, github }) => {
  const user = githubUser();
  github.be(user);
  const first = visit(app);
  const second = visit(app);

  const one = await throughGithub(first);
  const two = await throughGithub(second);

  expect(one.back.pathname).toBe("/api/auth/callback/github");
  expect([one.location, two.location]).toEqual(["/welcome", "/welcome"]);
  const [mine, again] = [await sessionOf(first), await sessionOf(second)] as {
    user: { id: string };
  }[];
  expect(mine).toMatchObject({
    user: { email: user.email, name: "Octo Cat", emailVerified: true },
  });
  expect(again?.user.id).toBe(mine?.user.id);
  expect((await first.get(me)).status).toBe(200);
});

test("GitHub is linked to a person only if both have proved the address", async ({
  app,
  github,
}) => {
  const { email: unproved } = await signUp(app);
  const { email: proved, userId } = await signUp(app);
  const link = await mailedLink(app, { to: proved, subject: verifySubject });
  await visit(app).get(pathOf(link));
  const arrive = async (change: Partial<GithubUser>) => {
    github.be(githubUser(change));
    const visitor = visit(app);
    const { location } = await throughGithub(visitor);
    return { location, session: await sessionOf(visitor) };
  };
  const emails = (email: string, verified: boolean) => [{ email, primary: true, verified }];

  const both = await arrive({ email: proved, emails: emails(proved, true) });
  const onlyGithub = await arrive({ email: unproved, emails: emails(unproved, true) });
  const onlyUs = await arrive({ id: 2, email: proved, emails: emails(proved, false) });

  expect(both).toMatchObject({ location: "/welcome", session: { user: { id: userId } } });
  expect(onlyGithub).toMatchObject({ location: "/oops?error=account_not_linked", session: null });
  expect(onlyUs.location).toMatch(/^\/oops\?error=email_not_found/);
  expect(onlyUs.session).toBeNull();
});

test("GitHub alone signs in nobody who has a second factor, linked before or not", async ({
  app,
  github,
}) => {
  const proved = async () => {
    const { email, visitor } = await signUp(app);
    await visit(app).get(pathOf(await mailedLink(app, { to: email, subject: verifySubject })));
    const user = githubUser({ email, emails: [{ email, primary: true, verified: true }] });
    return { visitor, user };
  };
  const arrive = async (user: GithubUser) => {
    github.be(user);
    const visitor = visit(app);
    const { location } = await throughGithub(visitor);
    return { location, session: await sessionOf(visitor) };
  };
  const [linked, unlinked] = [await proved(), await proved()];
  expect((await arrive(linked.user)).location).toBe("/welcome");
  await enableTotp(linked.visitor);
  await enableTotp(unlinked.visitor);

  const refused = [await arrive(linked.user), await arrive(unlinked.user)];

  for (const { location, session } of refused) {
    expect(location).toMatch(/^\/oops\?error=SECOND_FACTOR_REQUIRED/);
    expect(session).toBeNull();
  }
  await unlinked.visitor.post("/api/auth/two-factor/disable", { password });
  const { rows } = await asSuperuser(app, (client) =>
    client.query("select 1 from sign_in_methods where provider_account_id = $1", [
      String(unlinked.user.id),
    ]),
  );
  expect(rows).toEqual([]);
});

test.for([
  {
    what: "another state",
    tamper: (url: URL) => {
      url.searchParams.set("state", "x".repeat(32));
      return url;
    },
  },
  {
    what: "another code",
    tamper: (url: URL) => {
      url.searchParams.set("code", "nonsense");
      return url;
    },
  },
])("coming back from GitHub with $what signs nobody in", async ({ tamper }, { app, github }) => {
  github.be(githubUser());
  const visitor = visit(app);

  const { location } = await throughGithub(visitor, { tamper });

  expect(location).toContain("error=");
  expect(await sessionOf(visitor)).toBeNull();
});

test("another browser cannot finish a sign-in at GitHub", async ({ app, github }) => {
  github.be(githubUser());
  const begun = await visit(app).post("/api/auth/sign-in/social", { provider: "github" });
  const authorized = await fetch((begun.body as { url: string }).url, { redirect: "manual" });
  const back = new URL(must(authorized.headers.get("location")));
  const victim = visit(app);

  await victim.get(back.pathname + back.search, { "sec-fetch-site": "cross-site" });

  expect(await sessionOf(victim)).toBeNull();
});

test("without an app of GitHub nobody signs in there", async () => {
  await using app = await startTestApp();

  const answer = await visit(app).post("/api/auth/sign-in/social", { provider: "github" });

  expect(answer).toMatchObject({ status: 404, body: { code: "PROVIDER_NOT_FOUND" } });
});

test("after wrong passwords the right one waits too, from that address alone", async ({ app }) => {
  stopClock();
  const { email } = await signUp(app);
  const attacker = visit(app);
  for (let attempt = 0; attempt < 4; attempt++) {
    expect((await signIn(attacker, email, "a wrong password")).status).toBe(401);
  }

  const right = await signIn(attacker, email);
  const elsewhere = await signIn(visit(app), email);

  expect(right).toMatchObject({ status: 429, body: { code: "SIGN_IN_DELAYED" } });
  expect(right.headers.get("retry-after")).toBe("2");
  expect(elsewhere.status).toBe(200);
});

test("one person's wrong passwords count together, by name, by address and over either door", async ({
  app,
}) => {
  stopClock();
  const { email, userId } = await signUp(app);
  const attacker = visit(app);
  const wrong = "a wrong password";
  const rpc = (username: string) =>
    attacker.post("/api/v1/auth/login", { username, password: wrong });

  const outcomes = [
    (await signIn(attacker, email, wrong)).status,
    (await signIn(attacker, email.toUpperCase(), wrong)).status,
    (await rpc(email)).status,
    (await rpc(userId)).status,
  ];

  expect(outcomes).toEqual([401, 401, 401, 401]);
  expect(await signIn(attacker, email)).toMatchObject({
    status: 429,
    body: { code: "SIGN_IN_DELAYED" },
  });
});

test("strangers of many addresses keep none out who signed in from theirs before", async ({
  app,
}) => {
  const { email, visitor } = await signUp(app);
  for (let guess = 0; guess < 60; guess++) {
    await signIn(visit(app), email, "a wrong password");
  }

  const elsewhere = await signIn(visit(app), email);
  const own = await signIn(visitor, email);

  expect(elsewhere).toMatchObject({ status: 429, body: { code: "SIGN_IN_DELAYED" } });
  expect(own.status).toBe(200);
});

test("whoever has to wait is told the same, whether there is such a person or not", async ({
  app,
}) => {
  stopClock();
  const { email } = await signUp(app);
  const replyOf = async (one: string) => {
    const attacker = visit(app);
    for (let attempt = 0; attempt < 4; attempt++) {
      await signIn(attacker, one, "a wrong password");
    }
    const { status, body, headers } = await signIn(attacker, one, "a wrong password");
    const varying = new Set(["date", "x-request-id", "x-ratelimit-reset", "retry-after"]);
    const names = [...headers.keys()].toSorted();
    const shown = [...headers].filter(([name]) => !varying.has(name)).toSorted();
    return { status, body: JSON.stringify(body).replace(/\d+ s/, "N s"), names, shown };
  };

  expect(await replyOf(email)).toEqual(await replyOf(newEmail()));
});

test("whoever has a session guesses the password no faster, and the audit log says it", async ({
  app,
}) => {
  stopClock();
  const { visitor, userId } = await signUp(app);
  const thief = visit(app);
  for (const [name, value] of visitor.cookies) {
    thief.cookies.set(name, value);
  }
  const change = (currentPassword: string) =>
    thief.post("/api/auth/change-password", { currentPassword, newPassword: password });

  const first = (await change("a wrong password")).status;
  const statuses = [];
  for (let attempt = 0; attempt < 3; attempt++) {
    const wrong = { password: "a wrong password" };
    statuses.push((await thief.post("/api/auth/two-factor/enable", wrong)).status);
  }
  const right = await change(password);

  expect([first, ...statuses]).toEqual([400, 400, 400, 400]);
  expect(right).toMatchObject({ status: 429, body: { code: "SIGN_IN_DELAYED" } });
  expect((await actionsOf(app, userId)).slice(2)).toEqual([
    "user.password_change refused",
    "user.totp_enable refused",
    "user.totp_enable refused",
    "user.totp_enable refused",
  ]);
});

async function actionsOf(app: App, userId: string): Promise<unknown[]> {
  const { rows } = await asSuperuser(app, (client) =>
    client.query(
      `select action, resource, detail, outcome, account_id, host(ip) as ip from audit_logs
       where actor_user_id = $1 order by id`,
      [userId],
    ),
  );
  expect(rows.every((row) => /^acc_/.test(row.account_id) && row.ip !== "")).toBe(true);
  return rows.map(({ action, detail, outcome }) =>
    [action, detail, outcome === "done" ? "" : outcome].filter((word) => word !== "").join(" "),
  );
}

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
