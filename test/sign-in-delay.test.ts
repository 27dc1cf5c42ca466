import { test as base, expect, onTestFinished } from "vitest";
import { startTestApp } from "./support/app.ts";
import { actionsOf, password, signIn, signUp } from "./support/sign-in.ts";
import { newEmail, visit } from "./support/visitor.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;

/** When the server's clock stands still: no wait of seconds is over before the next call then. */
let stoppedAt: Date | undefined;

/** Stop the server's clock until the test is over. */
function stopClock(): void {
  stoppedAt = new Date();
  onTestFinished(() => {
    stoppedAt = undefined;
  });
}

const test = base.extend<{ $file: { app: App } }>({
  app: [
    // biome-ignore lint/correctness/noEmptyPattern: vitest reads the pattern
    async ({}, use) => {
      const env = { TRUSTED_PROXIES: "127.0.0.1" };
      await using app = await startTestApp(env, { now: () => stoppedAt ?? new Date() });
      await use(app);
    },
    { scope: "file" },
  ],
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
