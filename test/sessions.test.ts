import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { expect } from "vitest";
import { AuthService } from "../gen/callora/accounts/v1/auth_service_pb.ts";
import { UserService } from "../gen/callora/accounts/v1/user_service_pb.ts";
import { createJwtKeeper } from "../src/accounts/jwt.ts";
import { password, startTestApp } from "./support/app.ts";
import { newPerson } from "./support/people.ts";
import { secretKey } from "./support/secret.ts";
import { asSuperuser } from "./support/superuser.ts";
import { test } from "./support/test.ts";
import { makeSession } from "./support/tokens.ts";

const refused = { code: Code.Unauthenticated };

test("signing in over REST gives a token in the documented body, which gRPC takes too", async () => {
  await using app = await startTestApp();
  const person = await app.person();

  const response = await post(app.url, "/api/v1/auth/login", {
    username: person.username,
    password,
  });
  const body = await response.json();

  expect(response.status).toBe(200);
  expect(body).toEqual({
    access_token: expect.stringMatching(/^eyJ[\w-]+\.[\w-]+\.[\w-]+$/),
    token_type: "bearer",
    expires_in: 900,
  });
  const transport = createGrpcTransport({
    baseUrl: app.url,
    interceptors: [
      (next) => (req) => {
        req.header.set("authorization", `Bearer ${body.access_token}`);
        return next(req);
      },
    ],
  });
  const { user } = await createClient(AuthService, transport).getMe({});
  expect(user?.id).toBe(person.id);
});

test("whoever signed in sees themselves in the documented body", async ({ app }) => {
  const person = await app.person("ADMIN");

  const response = await get(app.url, "/api/v1/auth/me", person.token);

  expect(await response.json()).toMatchObject({
    id: person.id,
    username: person.username,
    email: "",
    is_admin: true,
    is_active: true,
    rate_limit_per_second: 100,
    rate_limit_burst: 200,
    created_at: expect.stringMatching(/^20\d\d-/),
  });
});

test("Login signs in and names the record in the audit log", async () => {
  await using app = await startTestApp();
  const person = await app.person();

  const response = await post(app.url, "/api/auth/login", {
    user_id: person.id,
    username: person.username,
    password,
  });
  const body = await response.json();

  expect(body).toMatchObject({ ok: true, token_type: "bearer", expires_in: 900 });
  const { rows } = await asSuperuser(app, (client) =>
    client.query("select action, resource, actor_user_id from audit_logs where id = $1", [
      body.audit_log_id,
    ]),
  );
  expect(rows).toEqual([
    { action: "user.login", resource: "auth/session", actor_user_id: person.id },
  ]);
  const me = await get(app.url, "/api/v1/auth/me", body.access_token);
  expect(me.status).toBe(200);
});

test("Login notes the sign-in of whoever the credential is, and of nobody else", async () => {
  await using app = await startTestApp({ TRUSTED_PROXIES: "127.0.0.1" });
  const [me, other] = [await newPerson(app.db), await newPerson(app.db)];
  const admin = await newPerson(app.db, "admin");
  const login = (body: object, token?: string) => post(app.url, "/api/auth/login", body, token);

  const own = await login({ user_id: me.userId }, me.token);
  const others = await login({ user_id: other.userId }, me.token);
  const byAdmin = await login({ user_id: other.userId }, admin.token);
  const stranger = await login({ user_id: other.userId });

  expect([own.status, others.status, byAdmin.status, stranger.status]).toEqual([
    200, 401, 200, 400,
  ]);
  expect(await own.json()).toMatchObject({ ok: true, access_token: "" });
});

test("a session that is revoked is refused at once, and no other one", async ({ app }) => {
  const me = await newPerson(app.db);
  const [first, second] = [await makeSession(app.db, me), await makeSession(app.db, me)];

  await app.client(AuthService, second.token).revokeSession({ sessionId: first.id });

  await expect(app.client(AuthService, first.token).getMe({})).rejects.toMatchObject(refused);
  await expect(app.client(AuthService, second.token).getMe({})).resolves.toBeDefined();
  const { sessions } = await app.client(AuthService, second.token).listSessions({});
  expect(sessions).toMatchObject([{ id: second.id, isCurrent: true, method: "password" }]);
});

test("signing out ends the session that asks, and needs one", async ({ app }) => {
  const me = await newPerson(app.db);
  const { token } = await makeSession(app.db, me);

  await app.client(AuthService, token).signOut({});

  await expect(app.client(AuthService, token).getMe({})).rejects.toMatchObject(refused);
  await expect(app.client(AuthService, me.token).signOut({})).rejects.toMatchObject({
    code: Code.FailedPrecondition,
  });
});

test("the token of one session does not work with the name of another person", async ({ app }) => {
  const [me, other] = [await newPerson(app.db), await newPerson(app.db)];
  const { id: sessionId } = await makeSession(app.db, other);
  const token = await createJwtKeeper(secretKey).sign({ userId: me.userId, sessionId }, new Date());

  await expect(app.client(AuthService, token).getMe({})).rejects.toMatchObject(refused);
});

test("a deactivated person's session is refused at once, and stays so", async ({ app }) => {
  const me = await newPerson(app.db);
  const { token } = await makeSession(app.db, me);
  const admin = app.client(UserService, (await newPerson(app.db, "admin")).token);

  await admin.deactivateUser({ userId: me.userId });
  await expect(app.client(AuthService, token).getMe({})).rejects.toMatchObject(refused);
  await admin.updateUser({ userId: me.userId, isActive: true });

  await expect(app.client(AuthService, token).getMe({})).rejects.toMatchObject(refused);
  await expect(app.client(AuthService, me.token).getMe({})).rejects.toMatchObject(refused);
});

test("an old session of the server's own key is refused", async ({ app }) => {
  const me = await newPerson(app.db);
  const { token } = await makeSession(app.db, { ...me, now: new Date(Date.now() - 901_000) });

  const error = await app.client(AuthService, token).getMe({}).catch(ConnectError.from);

  expect(error).toMatchObject(refused);
});

function post(url: string, path: string, body: object, token?: string): Promise<Response> {
  return fetch(url + path, {
    method: "POST",
    headers: {
      "content-type": "application/json",
      ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
    },
    body: JSON.stringify(body),
  });
}

function get(url: string, path: string, token: string): Promise<Response> {
  return fetch(url + path, { headers: { authorization: `Bearer ${token}` } });
}
