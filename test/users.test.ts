import { randomUUID } from "node:crypto";
import { Code, ConnectError } from "@connectrpc/connect";
import { expect } from "vitest";
import { AuthService } from "../gen/callora/accounts/v1/auth_service_pb.ts";
import { UserService } from "../gen/callora/accounts/v1/user_service_pb.ts";
import { LimitService } from "../gen/callora/limits/v1/limit_service_pb.ts";
import { RateClass } from "../gen/callora/policy/v1/policy_pb.ts";
import { rememberPeople } from "../src/accounts/people.ts";
import { createRateOverrides } from "../src/limits/overrides.ts";
import { createOwnRates } from "../src/own-rates.ts";
import { type Role, roles } from "../src/rpc/principal.ts";
import { must, password, startTestApp } from "./support/app.ts";
import { newPerson } from "./support/people.ts";
import { asSuperuser } from "./support/superuser.ts";
import { test } from "./support/test.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;

const newName = () => `u${randomUUID().slice(0, 12)}`;

test("people are listed, made, changed and deactivated in the documented bodies", async () => {
  await using app = await startTestApp();
  const { token } = await newPerson(app.db, "admin");
  const call = async (method: string, path: string, body?: object) => {
    const response = await fetch(`${app.url}${path}`, {
      method,
      headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    return { status: response.status, body: await response.json() };
  };
  const username = newName();

  const made = await call("POST", "/api/v1/users", { username, password, email: "A@x.example" });
  expect(made).toMatchObject({
    status: 200,
    body: {
      username,
      email: "A@x.example",
      is_admin: false,
      is_active: true,
      rate_limit_per_second: 10,
      rate_limit_burst: 20,
      created_at: expect.any(String),
      updated_at: expect.any(String),
    },
  });
  expect(JSON.stringify(made.body)).not.toContain("password");
  const { id } = made.body;
  expect((await call("GET", `/api/v1/users/${id}`)).body).toEqual(made.body);

  const limits = { rate_limit_per_second: 7, rate_limit_burst: 9 };
  const changed = await call("PATCH", `/api/v1/users/${id}`, { ...limits, email: "b@x.example" });
  expect(changed.body).toMatchObject({ ...limits, email: "b@x.example", username });

  expect(await call("DELETE", `/api/v1/users/${id}`)).toEqual({
    status: 200,
    body: { status: "success", message: "User deactivated" },
  });
  const inactive = await call("GET", "/api/v1/users?is_active=false");
  expect(inactive.body).toMatchObject({ total: 1, users: [{ id, is_active: false }] });
  const active = await call("GET", "/api/v1/users?is_active=true&limit=1&skip=1");
  expect(active.body).toMatchObject({ total: 2, users: [{ username: "root" }] });

  const list = await call("GET", "/api/admin/users?limit=1&offset=2");
  expect(list.body).toMatchObject({ total: 3, limit: 1, offset: 2 });
  expect(list.body.users).toEqual([
    {
      id: expect.stringMatching(/^usr_/),
      email: "",
      role: "super_admin",
      created_at: expect.any(String),
    },
  ]);
});

test("a role is changed in the documented body, and takes effect at once", async ({ app }) => {
  const boss = await newPerson(app.db, "super_admin");
  const person = await newPerson(app.db);

  const response = await fetch(`${app.url}/api/admin/users/${person.userId}/role`, {
    method: "PATCH",
    headers: { authorization: `Bearer ${boss.token}`, "content-type": "application/json" },
    body: JSON.stringify({ role: "admin" }),
  });

  expect(await response.json()).toEqual({
    status: "updated",
    user_id: person.userId,
    new_role: "admin",
  });
  await expect(app.client(UserService, person.token).listUsers({})).resolves.toBeDefined();
});

test("a role that there is not is refused", async ({ app }) => {
  const boss = await newPerson(app.db, "super_admin");
  const users = app.client(UserService, boss.token);

  const outcome = users.setUserRole({ userId: boss.userId, role: "owner" });

  await expect(outcome).rejects.toMatchObject({ code: Code.InvalidArgument });
});

const pairs = (["admin", "super_admin"] as const).flatMap((by) =>
  roles.flatMap((of) => roles.map((to) => ({ by, of, to }))),
);

test.for(pairs)("a $by who makes a $of a $to may, or may not", async ({ by, of, to }, { app }) => {
  const [caller, person] = [await newPerson(app.db, by), await newPerson(app.db, of)];
  const { userId } = person;

  const outcome = await app
    .client(UserService, caller.token)
    .setUserRole({ userId, role: to })
    .then(() => "done", codeOf);

  // The method is for super admins alone.
  expect(outcome).toBe(by === "super_admin" ? "done" : Code.PermissionDenied);
  expect(await roleOf(app, userId)).toBe(by === "super_admin" ? to : of);
});

test.for([
  { of: "user", isAdmin: true },
  { of: "admin", isAdmin: false },
  { of: "super_admin", isAdmin: false },
] as const)("an admin cannot say is_admin $isAdmin of a $of", async ({ of, isAdmin }, { app }) => {
  const [admin, person] = [await newPerson(app.db, "admin"), await newPerson(app.db, of)];
  const { userId } = person;

  const outcome = app.client(UserService, admin.token).updateUser({ userId, isAdmin });

  await expect(outcome).rejects.toMatchObject({ code: Code.PermissionDenied });
  expect(await roleOf(app, userId)).toBe(of);
});

test.for(["admin", "super_admin"] as const)(
  "an admin neither changes nor deactivates a %s",
  async (role, { app }) => {
    const [admin, person] = [await newPerson(app.db, "admin"), await newPerson(app.db, role)];
    const users = app.client(UserService, admin.token);
    const { userId } = person;

    const denied = { code: Code.PermissionDenied };
    await expect(users.updateUser({ userId, username: newName() })).rejects.toMatchObject(denied);
    await expect(users.deactivateUser({ userId })).rejects.toMatchObject(denied);
    await expect(app.client(AuthService, person.token).getMe({})).resolves.toBeDefined();
  },
);

test("nobody changes their own role or deactivates themselves", async ({ app }) => {
  const { userId, token } = await newPerson(app.db, "super_admin");
  const users = app.client(UserService, token);

  const denied = { code: Code.PermissionDenied };
  await expect(users.setUserRole({ userId, role: "user" })).rejects.toMatchObject(denied);
  await expect(users.updateUser({ userId, isAdmin: false })).rejects.toMatchObject(denied);
  await expect(users.deactivateUser({ userId })).rejects.toMatchObject(denied);
  await expect(users.updateUser({ userId, isActive: false })).rejects.toMatchObject(denied);
  expect(await roleOf(app, userId)).toBe("super_admin");
});

test("super admins who all demote or deactivate each other at once leave one", async () => {
  await using app = await startTestApp();
  for (let round = 0; round < 5; round++) {
    const people = [
      await newPerson(app.db, "super_admin"),
      await newPerson(app.db, "super_admin"),
      await newPerson(app.db, "super_admin"),
    ];
    const ids = people.map(({ userId }) => userId);
    await asSuperuser(app, (client) =>
      client.query(
        "update users set role = 'user' where role = 'super_admin' and not id = any($1)",
        [ids],
      ),
    );

    const outcomes = await Promise.all(
      people.flatMap(({ token }, index) => {
        const users = app.client(UserService, token);
        const others = ids.filter((_id, other) => other !== index);
        return others.map((userId, other) =>
          (other % 2 === 0
            ? users.setUserRole({ userId, role: "user" })
            : users.deactivateUser({ userId })
          ).then(() => "done", codeOf),
        );
      }),
    );

    const { rows } = await asSuperuser(app, (client) =>
      client.query("select id from users where role = 'super_admin' and active"),
    );
    expect(rows).toHaveLength(1);
    expect(outcomes.filter((one) => one === "done").length).toBeGreaterThanOrEqual(2);
  }
});

test("the rates that an admin gives a person count at once, below those of the LimitService", async ({
  app,
}) => {
  const admin = await newPerson(app.db, "admin");
  const { userId, accountId, token } = await newPerson(app.db);
  const { db, trust } = app;
  const people = rememberPeople({ db, trust });
  const own = createOwnRates({ overrides: createRateOverrides({ db, trust }), people });
  const caller = { kind: "user", id: userId, accountId, homeAccountId: accountId } as const;
  const session = { credential: "jwt", credentialId: "x", mode: "live" } as const;
  const rates = async () => own({ ...caller, ...session, memberRole: "owner", role: "user" });
  expect(await rates()).toBeNull();
  const users = app.client(UserService, admin.token);

  await users.updateUser({ userId, rateLimitPerSecond: 50 });
  expect(await rates()).toEqual({ [RateClass.MONITOR]: { intervalMs: 20, burst: 20 } });
  const limits = app.client(LimitService, (await app.admin()).token);
  const override = { accountId, subjectId: userId, rateClass: RateClass.MONITOR };
  await limits.setRateOverride({ ...override, perMinute: 60, burst: 5 });

  expect(await rates()).toEqual({ [RateClass.MONITOR]: { intervalMs: 1000, burst: 5 } });
  const { user } = await app.client(AuthService, token).getMe({});
  expect(user).toMatchObject({ rateLimitPerSecond: 50, rateLimitBurst: 20 });
});

test("a name that a person gives up is free, and one that another has is not", async ({ app }) => {
  const users = app.client(UserService, (await newPerson(app.db, "admin")).token);
  const [old, other] = [newName(), newName()];
  const { user } = await users.createUser({ username: old, password });
  await users.createUser({ username: other, password });
  const userId = must(user).id;

  const taken = users.updateUser({ userId, username: other.toUpperCase() });
  await expect(taken).rejects.toMatchObject({ code: Code.AlreadyExists });
  await users.updateUser({ userId, username: newName() });

  await expect(users.createUser({ username: old, password })).resolves.toBeDefined();
});

function codeOf(error: unknown): Code {
  return ConnectError.from(error).code;
}

async function roleOf(app: App, userId: string): Promise<Role> {
  const { rows } = await asSuperuser(app, (client) =>
    client.query("select role from users where id = $1", [userId]),
  );
  return rows[0].role;
}
