import { createHash, randomUUID } from "node:crypto";
import { Code, ConnectError } from "@connectrpc/connect";
import { expect } from "vitest";
import { AuthService } from "../gen/callora/accounts/v1/auth_service_pb.ts";
import { PlatformRole, UserService } from "../gen/callora/accounts/v1/user_service_pb.ts";
import { deleteExpiredSessions } from "../src/accounts/session-store.ts";
import { must, password, startTestApp } from "./support/app.ts";
import { newPerson } from "./support/people.ts";
import { asSuperuser } from "./support/superuser.ts";
import { test } from "./support/test.ts";
import { makeSession } from "./support/tokens.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;

const newName = () => `u${randomUUID().slice(0, 12)}`;

test("whoever was created can sign in, and see who they are", async () => {
  await using app = await startTestApp();
  const username = newName();
  const { user } = await createUser(app, { username, role: PlatformRole.DEVELOPER });

  const login = await app
    .client(AuthService)
    .passwordLogin({ username: username.toUpperCase(), password });

  const me = await app.client(AuthService, login.accessToken).getMe({});
  expect(login).toMatchObject({ tokenType: "bearer", expiresIn: 900 });
  expect(me.user).toEqual(user);
  expect(me.user).toMatchObject({ username, role: PlatformRole.DEVELOPER });
});

test("an unknown name, a wrong password and a deactivated person get the same answer", async () => {
  await using app = await startTestApp();
  const active = await createUser(app, { username: newName() });
  const gone = await createUser(app, { username: newName() });
  await asSuperuser(app, (client) =>
    client.query("update users set active = false where id = $1", [must(gone.user).id]),
  );
  const attempts = [
    { username: newName(), password },
    { username: must(active.user).username, password: `${password}.` },
    { username: must(gone.user).username, password },
  ];

  const errors = await Promise.all(
    attempts.map((attempt) =>
      app.client(AuthService).passwordLogin(attempt).catch(ConnectError.from),
    ),
  );

  const [first, ...others] = errors.map(shownOf);
  expect(first).toMatchObject({ code: Code.Unauthenticated });
  expect(first?.details).toContain("CREDENTIALS_INVALID");
  expect(others).toEqual([first, first]);
});

test("one address signs in only a few times a minute, whatever the name", async () => {
  const moment = new Date();
  await using app = await startTestApp({}, { now: () => moment });
  const statuses: (number | string | null)[] = [];
  for (let attempt = 0; attempt < 7; attempt++) {
    const response = await fetch(`${app.url}/api/v1/auth/login`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ username: newName(), password }),
    });
    statuses.push(response.status === 429 ? response.headers.get("retry-after") : response.status);
    await response.body?.cancel();
  }

  expect(statuses.slice(0, 5)).toEqual([401, 401, 401, 401, 401]);
  expect(Number(statuses.at(-1))).toBeGreaterThan(0);
  expect(Number(statuses.at(-1))).toBeLessThanOrEqual(6);
});

test("a session ends with its time, and its row goes", async () => {
  let laterMs = 0;
  const now = () => new Date(Date.now() + laterMs);
  await using app = await startTestApp({}, { now });
  const me = await newPerson(app.db);
  const { token } = await makeSession(app.db, me);
  const auth = app.client(AuthService, token);
  // Long before the signed token itself.
  await asSuperuser(app, (client) =>
    client.query("update sessions set expire_at = now() + interval '2 min' where user_id = $1", [
      me.userId,
    ]),
  );
  await expect(auth.getMe({})).resolves.toBeDefined();

  laterMs = 120_000;

  await expect(auth.getMe({})).rejects.toMatchObject({ code: Code.Unauthenticated });
  await app.db.systemTransaction((tx) => deleteExpiredSessions(tx, now()));
  expect(await countSessions(app, me.userId)).toBe(0);
});

test("cleaning up leaves sessions that last", async ({ app }) => {
  const me = await newPerson(app.db);
  await makeSession(app.db, me);

  await app.db.systemTransaction((tx) => deleteExpiredSessions(tx, new Date()));

  expect(await countSessions(app, me.userId)).toBe(1);
});

test("a deactivated person is out at once", async ({ app }) => {
  const me = await newPerson(app.db);

  await asSuperuser(app, (client) =>
    client.query("update users set active = false where id = $1", [me.userId]),
  );

  const outcome = app.client(AuthService, me.token).getMe({});
  await expect(outcome).rejects.toMatchObject({ code: Code.Unauthenticated });
});

test("the database holds neither passwords nor tokens", async ({ app }) => {
  const { user } = await createUser(app, { username: newName() });
  const me = await newPerson(app.db);
  const hash = createHash("sha256").update(me.token).digest();

  const stored = await asSuperuser(app, async (client) => ({
    users: (
      await client.query("select password_hash from sign_in_methods where user_id = $1", [
        must(user).id,
      ])
    ).rows,
    tokens: (
      await client.query(
        `select token_hash from api_token_directory as listed
         join api_tokens on api_tokens.id = listed.token_id where user_id = $1`,
        [me.userId],
      )
    ).rows,
  }));

  expect(stored.users[0].password_hash).toMatch(/^\$argon2id\$v=19\$m=19456,t=2,p=1\$/);
  expect(stored.tokens).toEqual([{ token_hash: hash }]);
});

test.for(["", "ora_", `ora_${"A".repeat(43)}`, `ora_${"A".repeat(42)}'`, `svc_${"A".repeat(43)}`])(
  "the token %j signs nobody in",
  async (token, { app }) => {
    const outcome = app.client(AuthService, token).getMe({});

    await expect(outcome).rejects.toMatchObject({ code: Code.Unauthenticated });
  },
);

test("a name and an address belong to one person, in whichever case", async ({ app }) => {
  const username = newName();
  const email = `${username}@example.com`;
  await createUser(app, { username, email });

  const sameName = () => createUser(app, { username: username.toUpperCase() });
  const sameMail = () => createUser(app, { username: newName(), email: email.toUpperCase() });

  await expect(sameName()).rejects.toMatchObject({ code: Code.AlreadyExists });
  await expect(sameMail()).rejects.toMatchObject({ code: Code.AlreadyExists });
});

test("of ten people who claim a name at once, one has it", async ({ app }) => {
  const username = newName();
  const { token } = await newPerson(app.db, "admin");
  const users = app.client(UserService, token);

  const outcomes = await Promise.allSettled(
    Array.from({ length: 10 }, () => users.createUser({ username, password })),
  );

  expect(outcomes.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
  const codes = outcomes.flatMap((one) => (one.status === "rejected" ? [one.reason.code] : []));
  expect(new Set(codes)).toEqual(new Set([Code.AlreadyExists]));
  const counted = await asSuperuser(app, (client) =>
    client.query("select count(*)::int as count from accounts where name = $1", [username]),
  );
  expect(counted.rows).toEqual([{ count: 1 }]);
});

test.for([
  { by: "admin", role: PlatformRole.USER, allowed: true },
  { by: "admin", role: PlatformRole.DEVELOPER, allowed: true },
  { by: "admin", role: PlatformRole.ADMIN, allowed: false },
  { by: "admin", role: PlatformRole.SUPER_ADMIN, allowed: false },
  { by: "super_admin", role: PlatformRole.SUPER_ADMIN, allowed: true },
] as const)(
  "$by may make somebody of role $role: $allowed",
  async ({ by, role, allowed }, { app }) => {
    const { token } = await newPerson(app.db, by);

    const outcome = app
      .client(UserService, token)
      .createUser({ username: newName(), password, role })
      .then(({ user }) => user?.role, shownOf);

    if (allowed) {
      expect(await outcome).toBe(role);
    } else {
      expect(await outcome).toMatchObject({ code: Code.PermissionDenied });
    }
  },
);

test.for([
  { what: "a short password", change: { password: "x".repeat(14) }, names: "password" },
  { what: "a name with a space", change: { username: "a b c" }, names: "username" },
  { what: "a short name", change: { username: "ab" }, names: "username" },
  { what: "a broken address", change: { email: "nowhere" }, names: "email" },
])("nobody is created with $what", async ({ change, names }, { app }) => {
  const outcome = createUser(app, { username: newName(), ...change });

  await expect(outcome).rejects.toMatchObject({ code: Code.InvalidArgument });
  await expect(outcome).rejects.toThrow(names);
});

async function createUser(
  app: App,
  user: { username: string; password?: string; email?: string; role?: PlatformRole },
) {
  const { token } = await newPerson(app.db, "admin");
  return app.client(UserService, token).createUser({ password, ...user });
}

/** All that a client can see of an error, but for the id of its request. */
function shownOf(error: unknown) {
  const { code, rawMessage, details } = ConnectError.from(error);
  const others = details.filter((one) => !("type" in one) || !one.type.endsWith(".RequestInfo"));
  return { code, rawMessage, details: JSON.stringify(others) };
}

async function countSessions(app: App, userId: string): Promise<number> {
  const { rows } = await asSuperuser(app, (client) =>
    client.query("select count(*)::int as count from sessions where user_id = $1", [userId]),
  );
  return rows[0].count;
}
