import { connect } from "node:http2";
import { text } from "node:stream/consumers";
import { test as base, expect } from "vitest";
import { UserService } from "../gen/callora/accounts/v1/user_service_pb.ts";
import { must, startTestApp } from "./support/app.ts";
import { asSuperuser } from "./support/superuser.ts";
import { newEmail, type Visitor, visit } from "./support/visitor.ts";

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

async function signUp(app: App, change: Record<string, unknown> = {}) {
  const visitor = visit(app);
  const email = newEmail();
  const answer = await visitor.post("/api/auth/sign-up/email", {
    name: "Ada",
    email,
    password,
    ...change,
  });
  return { visitor, email, answer, body: answer.body as { token: string; user: { id: string } } };
}

const cookieName = "better-auth.session_token";

test("signing up makes a person with an account, and signs them in", async ({ app }) => {
  const { visitor, email, answer, body } = await signUp(app, { hasCompletedOnboarding: true });

  expect(answer.status).toBe(200);
  expect(answer.body).toEqual({
    token: expect.stringMatching(/^[A-Za-z0-9]{32}$/),
    user: {
      id: expect.stringMatching(/^usr_[0-9a-v]{26}$/),
      accountId: expect.stringMatching(/^acc_[0-9a-v]{26}$/),
      name: "Ada",
      email,
      emailVerified: false,
      image: null,
      role: "user",
      hasCompletedOnboarding: true,
      twoFactorEnabled: false,
      createdAt: expect.any(String),
      updatedAt: expect.any(String),
    },
  });
  const [cookie = ""] = answer.headers.getSetCookie();
  expect(cookie.split("; ").slice(1).sort()).toEqual([
    "HttpOnly",
    "Max-Age=604800",
    "Path=/",
    "SameSite=Lax",
  ]);
  expect(decodeURIComponent(must(visitor.cookies.get(cookieName)))).toMatch(
    new RegExp(`^${body.token}\\.[A-Za-z0-9+/]{43}=$`),
  );
});

test("over https the cookie is Secure, by its name and its attribute", async () => {
  await using app = await startTestApp({ PUBLIC_URL: "https://callora.example" });
  const email = newEmail();

  const { status, headers } = await visit(app).post(
    "/api/auth/sign-up/email",
    { name: "x", email, password },
    { origin: "https://callora.example" },
  );

  expect(status).toBe(200);
  const [cookie = ""] = headers.getSetCookie();
  expect(cookie).toMatch(/^__Secure-better-auth\.session_token=/);
  expect(cookie.split("; ")).toContain("Secure");
});

test("signing in answers as documented", async ({ app }) => {
  const { email, body } = await signUp(app);
  const visitor = visit(app);

  const answer = await visitor.post("/api/auth/sign-in/email", { email, password });

  expect(answer).toMatchObject({
    status: 200,
    body: { redirect: false, token: expect.any(String), user: { id: body.user.id, email } },
  });
  expect(answer.headers.get("cache-control")).toBe("no-store");
  expect(visitor.cookies.has(cookieName)).toBe(true);
});

test.for([
  {
    what: "a wrong password",
    change: { password: "a wrong password" },
    status: 401,
    code: "INVALID_EMAIL_OR_PASSWORD",
    message: "Invalid email or password",
  },
  {
    what: "an unknown address",
    change: { email: "nobody@mail.test" },
    status: 401,
    code: "INVALID_EMAIL_OR_PASSWORD",
    message: "Invalid email or password",
  },
  {
    what: "no address",
    change: { email: "x" },
    status: 400,
    code: "INVALID_EMAIL",
    message: "Invalid email",
  },
])("signing in with $what is refused", async ({ change, status, code, message }, { app }) => {
  const { email } = await signUp(app);

  const answer = await visit(app).post("/api/auth/sign-in/email", { email, password, ...change });

  expect(answer).toMatchObject({ status, body: { code, message } });
});

test.for([
  { change: { email: "x" }, code: "VALIDATION_ERROR", message: /\[body.email\] Invalid email/ },
  { change: { password: "short" }, code: "PASSWORD_TOO_SHORT", message: /^Password too short$/ },
  { change: { password: "x".repeat(129) }, code: "PASSWORD_TOO_LONG", message: /too long/ },
  { change: { name: undefined }, code: "VALIDATION_ERROR", message: /\[body.name\]/ },
])("signing up with $change is refused", async ({ change, code, message }, { app }) => {
  const { answer } = await signUp(app, change);

  expect(answer).toMatchObject({
    status: 400,
    body: { code, message: expect.stringMatching(message) },
  });
});

test("an address signs up once, however it is written and however often at once", async ({
  app,
}) => {
  const email = newEmail();

  const answers = await Promise.all(
    [email, email.toUpperCase(), email, email].map(
      async (one) => (await signUp(app, { email: one })).answer,
    ),
  );

  expect(answers.map(({ status }) => status).sort()).toEqual([200, 422, 422, 422]);
  expect(answers.find(({ status }) => status === 422)?.body).toEqual({
    code: "USER_ALREADY_EXISTS_USE_ANOTHER_EMAIL",
    message: "User already exists. Use another email.",
  });
  const rows = await asSuperuser(app, (client) =>
    client.query(
      `select users.id, accounts.account_id, sign_in_methods.id as method from users
       join accounts using (account_id)
       left join sign_in_methods on user_id = users.id where email = $1`,
      [email],
    ),
  );
  expect(rows.rows).toEqual([
    {
      id: expect.stringMatching(/^usr_/),
      account_id: expect.stringMatching(/^acc_/),
      method: expect.stringMatching(/^sim_/),
    },
  ]);
});

test.for([
  { role: "super_admin" },
  { id: "usr_00000000000000000000000000" },
  { accountId: "acc_0" },
])("nobody gives himself %j", async (change, { app }) => {
  const { visitor, answer } = await signUp(app, change);
  const updated = await visitor.post("/api/auth/update-user", change);

  const me = answer.status === 200 ? await visitor.get("/api/auth/get-session") : undefined;

  const [[name, value] = ["", ""]] = Object.entries(change);
  expect(updated.status).toBe(answer.status === 200 ? 400 : 401);
  expect((me?.body as { user: Record<string, string> } | undefined)?.user[name]).not.toBe(value);
  const { rows } = await asSuperuser(app, (client) =>
    client.query("select role from users where username <> 'root' and role = 'super_admin'"),
  );
  expect(rows).toEqual([]);
});

test("get-session answers null to strangers, and who it is to a visitor", async ({ app }) => {
  const { visitor, email, body } = await signUp(app);

  const [mine, none, forged] = await Promise.all([
    visitor.get("/api/auth/get-session"),
    visit(app).get("/api/auth/get-session"),
    visit(app).get("/api/auth/get-session", { cookie: `${cookieName}=${body.token}.AAAA` }),
  ]);

  expect(mine).toMatchObject({
    status: 200,
    body: {
      session: { id: expect.stringMatching(/^ses_/), userId: body.user.id, token: body.token },
      user: { id: body.user.id, email },
    },
  });
  expect([none, forged]).toMatchObject([
    { status: 200, body: null },
    { status: 200, body: null },
  ]);
});

test("a program without a browser may ask for its session; another's page may not", async ({
  app,
}) => {
  const { visitor } = await signUp(app);
  const ask = async (headers: Record<string, string>) =>
    (await visitor.get("/api/auth/get-session", headers)).body === null;

  expect(await ask({})).toBe(false);
  expect(await ask({ origin: app.url })).toBe(false);
  expect(await ask({ origin: "https://evil.example" })).toBe(true);
  expect(await ask({ "sec-fetch-site": "cross-site" })).toBe(true);
  expect(await ask({ "sec-fetch-site": "same-site" })).toBe(true);
});

test("update-user changes what is the user's to change", async ({ app }) => {
  const { visitor } = await signUp(app);

  const answer = await visitor.post("/api/auth/update-user", {
    name: "Grace",
    hasCompletedOnboarding: true,
  });

  const { body } = await visitor.get("/api/auth/get-session");
  expect(answer).toMatchObject({ status: 200, body: { status: true } });
  expect(body).toMatchObject({ user: { name: "Grace", hasCompletedOnboarding: true } });
});

test("/ok is there; what is not on the list is not", async ({ app }) => {
  const { visitor } = await signUp(app);
  const absent = [
    "delete-user",
    "change-email",
    "set-password",
    "update-session",
    "link-social",
    "unlink-account",
    "list-accounts",
    "get-access-token",
    "refresh-token",
    "account-info",
    "error",
    "two-factor/send-otp",
    "two-factor/verify-otp",
    "verify-password",
    "api-key/create",
    "nothing",
  ];

  expect(await visitor.get("/api/auth/ok")).toMatchObject({ status: 200, body: { ok: true } });
  const statuses = await Promise.all(
    absent.flatMap((path) => [
      visitor.get(`/api/auth/${path}`).then(({ status }) => status),
      visitor.post(`/api/auth/${path}`, {}).then(({ status }) => status),
    ]),
  );
  expect(new Set(statuses)).toEqual(new Set([404]));
  expect((await visitor.get("/api/auth/sign-out")).status).toBe(405);
});

test.for(["application/x-www-form-urlencoded", "text/plain", "", "application/jsonx"])(
  "a POST of %j is refused",
  async (type, { app }) => {
    const { visitor } = await signUp(app);

    const answer = await visitor.post("/api/auth/sign-out", "{}", { "content-type": type });

    expect(answer).toMatchObject({ status: 415, body: { code: "UNSUPPORTED_MEDIA_TYPE" } });
    expect((await visitor.get("/api/auth/get-session")).body).not.toBeNull();
  },
);

test.for(["https://evil.example", "null", "http://localhost:1", "http://127.0.0.1"])(
  "another's page (%s) changes nothing",
  async (origin, { app }) => {
    const { visitor, email } = await signUp(app);

    const out = await visitor.post("/api/auth/sign-out", {}, { origin });
    const login = await visit(app).post("/api/auth/sign-in/email", { email, password }, { origin });

    const code = origin === "null" ? "MISSING_OR_NULL_ORIGIN" : "INVALID_ORIGIN";
    expect(out).toMatchObject({ status: 403, body: { code } });
    expect(login).toMatchObject({ status: 403, body: { code } });
    expect((await visitor.get("/api/auth/get-session")).body).not.toBeNull();
  },
);

test("a page of an origin that CORS_ORIGINS names may act", async () => {
  const origin = "https://console.example";
  await using app = await startTestApp({ CORS_ORIGINS: origin });
  const visitor = visit(app);

  const answer = await visitor.post(
    "/api/auth/sign-up/email",
    { name: "x", email: newEmail(), password },
    { origin },
  );
  const me = await visitor.get("/api/v1/auth/me", { origin });

  expect([answer.status, me.status]).toEqual([200, 200]);
});

test("HTTP/2 is served alike", async ({ app }) => {
  const session = connect(app.url);
  const stream = session.request({
    ":method": "POST",
    ":path": "/api/auth/sign-up/email",
    "content-type": "application/json",
    origin: app.url,
    "x-forwarded-for": "203.0.113.7",
  });
  const headers = new Promise<Record<string, unknown>>((resolve) =>
    stream.once("response", resolve),
  );
  stream.end(JSON.stringify({ name: "x", email: newEmail(), password }));

  const body = JSON.parse(await text(stream));

  expect((await headers)[":status"]).toBe(200);
  expect((await headers)["set-cookie"]).toMatchObject([expect.stringContaining(cookieName)]);
  expect(body.user.id).toMatch(/^usr_/);
  session.close();
});

test("sign-in is limited by address, asking for the session is not", async () => {
  const moment = new Date();
  await using app = await startTestApp({ TRUSTED_PROXIES: "127.0.0.1" }, { now: () => moment });
  const visitor = visit(app);
  const statuses: number[] = [];
  for (let attempt = 0; attempt < 7; attempt++) {
    const { status } = await visitor.post("/api/auth/sign-in/email", { email: "x", password });
    statuses.push(status);
  }
  const asked = await visitor.get("/api/auth/get-session");

  expect(statuses).toEqual([400, 400, 400, 400, 400, 429, 429]);
  expect(asked.status).toBe(200);
});

const me = "/api/v1/auth/me";
const connectMe = "/callora.accounts.v1.AuthService/GetMe";
const ways: {
  what: string;
  ask: (visitor: Visitor, app: App) => Promise<number>;
  status: number;
}[] = [
  { what: "REST from our page", ask: (v) => statusOf(v.get(me)), status: 200 },
  {
    what: "REST with our Origin",
    ask: (v, app) => statusOf(v.get(me, { origin: app.url })),
    status: 200,
  },
  { what: "REST from nowhere", ask: (v) => statusOf(v.get(me, {})), status: 401 },
  {
    what: "REST from another page",
    ask: (v) => statusOf(v.get(me, { "sec-fetch-site": "cross-site" })),
    status: 401,
  },
  {
    what: "REST from a sibling",
    ask: (v) => statusOf(v.get(me, { "sec-fetch-site": "same-site" })),
    status: 401,
  },
  {
    what: "REST from an address bar",
    ask: (v) => statusOf(v.get(me, { "sec-fetch-site": "none" })),
    status: 401,
  },
  {
    what: "REST with another's Origin",
    ask: (v) =>
      statusOf(v.get(me, { origin: "https://evil.example", "sec-fetch-site": "same-origin" })),
    status: 401,
  },
  { what: "Connect with JSON", ask: (v) => statusOf(v.post(connectMe, {})), status: 200 },
  {
    what: "Connect with a binary body",
    ask: (v) => statusOf(v.post(connectMe, "", { "content-type": "application/proto" })),
    status: 401,
  },
  {
    what: "Connect from another page",
    ask: (v) => statusOf(v.post(connectMe, {}, { origin: "https://evil.example" })),
    status: 401,
  },
  {
    what: "a cookie beside another credential",
    ask: (v) =>
      statusOf(v.get(me, { "sec-fetch-site": "same-origin", authorization: "Bearer nonsense" })),
    status: 401,
  },
];

async function statusOf(answer: Promise<{ status: number }>): Promise<number> {
  return (await answer).status;
}

test.for(ways)("$what: the cookie answers $status", async ({ ask, status }, { app }) => {
  const { visitor } = await signUp(app);

  expect(await ask(visitor, app)).toBe(status);
});

test("gRPC-Web takes no cookie: its body is no JSON", async ({ app }) => {
  const { visitor } = await signUp(app);

  const { headers, body } = await visitor.post(connectMe, "\0\0\0\0\0", {
    "content-type": "application/grpc-web+proto",
  });

  expect(headers.get("content-type")).toMatch(/^application\/grpc-web/);
  expect(body).toMatch(/grpc-status: ?16\r\n/);
});

test("the token is a bearer token too; a session's id is not", async ({ app }) => {
  const { visitor, body } = await signUp(app);
  const session = (await visitor.get("/api/auth/get-session")).body as { session: { id: string } };
  const ask = (token: string) => statusOf(visit(app).get(me, { authorization: `Bearer ${token}` }));

  expect(await ask(body.token)).toBe(200);
  expect(await ask(session.session.id)).toBe(401);
});

test("signing out ends the session at once, everywhere", async ({ app }) => {
  const { visitor, body } = await signUp(app);
  const cookies = new Map(visitor.cookies);

  const out = await visitor.post("/api/auth/sign-out", {});

  expect(out).toMatchObject({ status: 200, body: { success: true } });
  expect(visitor.cookies.has(cookieName)).toBe(false);
  const thief = visit(app);
  for (const [name, value] of cookies) {
    thief.cookies.set(name, value);
  }
  expect((await thief.get("/api/auth/get-session")).body).toBeNull();
  expect(await statusOf(thief.get(me))).toBe(401);
  expect(await statusOf(thief.get(me, { authorization: `Bearer ${body.token}` }))).toBe(401);
});

test("a person lists sessions and ends others, without learning their tokens", async ({ app }) => {
  const { visitor, email, body } = await signUp(app);
  const other = visit(app);
  const login = await other.post("/api/auth/sign-in/email", { email, password });
  const { token } = login.body as { token: string };

  const list = (await visitor.get("/api/auth/list-sessions")).body as { token: string }[];
  const shown = list.map((session) => session.token);
  const revoked = await visitor.post("/api/auth/revoke-session", {
    token: must(shown.find((one) => one.startsWith("ses_"))),
  });

  expect(list).toHaveLength(2);
  expect(shown).toContain(body.token);
  expect(shown).not.toContain(token);
  expect(revoked).toMatchObject({ status: 200, body: { status: true } });
  expect((await other.get("/api/auth/get-session")).body).toBeNull();
  expect((await visitor.get("/api/auth/get-session")).body).not.toBeNull();
});

test("revoke-other-sessions leaves the one that asks", async ({ app }) => {
  const { visitor, email } = await signUp(app);
  const other = visit(app);
  await other.post("/api/auth/sign-in/email", { email, password });

  await visitor.post("/api/auth/revoke-other-sessions", {});

  expect((await other.get("/api/auth/get-session")).body).toBeNull();
  expect(await statusOf(other.get(me))).toBe(401);
  expect(await statusOf(visitor.get(me))).toBe(200);
});

test("a person who was deactivated is out, and stays out", async ({ app }) => {
  const { visitor, email, body } = await signUp(app);

  const { token } = await app.admin();
  await app.client(UserService, token).deactivateUser({ userId: body.user.id });

  const login = await visit(app).post("/api/auth/sign-in/email", { email, password });
  const again = await signUp(app, { email });
  expect(await statusOf(visitor.get(me))).toBe(401);
  expect((await visitor.get("/api/auth/get-session")).body).toBeNull();
  expect(login.status).toBe(401);
  expect(again.answer.status).toBe(422);
});
