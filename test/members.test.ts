import { randomUUID } from "node:crypto";
import { type Client, Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { expect } from "vitest";
import {
  AccountService,
  MemberRole as ShownRole,
} from "../gen/callora/accounts/v1/account_service_pb.ts";
import { AuthService } from "../gen/callora/accounts/v1/auth_service_pb.ts";
import { UserService } from "../gen/callora/accounts/v1/user_service_pb.ts";
import { CatalogService } from "../gen/callora/catalog/v1/catalog_service_pb.ts";
import { CreditService } from "../gen/callora/credits/v1/credit_service_pb.ts";
import { insertMember } from "../src/accounts/member-store.ts";
import { grantProblem } from "../src/accounts/role-rules.ts";
import { type MemberRole, memberRoles } from "../src/rpc/principal.ts";
import { must, type startTestApp, until } from "./support/app.ts";
import { newPerson, type SignedIn } from "./support/people.ts";
import { asSuperuser } from "./support/superuser.ts";
import { test } from "./support/test.ts";
import { makeSession } from "./support/tokens.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;

const shown = {
  owner: ShownRole.OWNER,
  admin: ShownRole.ADMIN,
  member: ShownRole.MEMBER,
  viewer: ShownRole.VIEWER,
} satisfies Record<MemberRole, ShownRole>;

/** A client of a service that acts for an account. */
function acting<S extends typeof AccountService | typeof CatalogService | typeof CreditService>(
  app: App,
  service: S,
  { token }: { token: string },
  accountId: string,
): Client<S> {
  const transport = createConnectTransport({
    baseUrl: app.url,
    httpVersion: "1.1",
    interceptors: [
      (next) => (req) => {
        req.header.set("authorization", `Bearer ${token}`);
        req.header.set("x-account-id", accountId);
        return next(req);
      },
    ],
  });
  return createClient(service, transport);
}

/** A person who is also a member of an account. */
async function newMember(app: App, accountId: string, role: MemberRole): Promise<SignedIn> {
  const person = await newPerson(app.db, "developer");
  const { userId } = person;
  await app.db.systemTransaction((tx) => insertMember(tx, { accountId, userId, role }));
  return person;
}

test("whoever is invited by mail becomes a member, and acts for the account", async ({ app }) => {
  const owner = await newPerson(app.db, "developer");
  const guest = await newPerson(app.db, "developer");
  const accounts = app.client(AccountService, owner.token);
  const email = `${randomUUID()}@x.example`;

  const { invitation } = await accounts.createInvitation({ email, role: ShownRole.MEMBER });
  const open = await accounts.listInvitations({});
  expect(open.invitations).toEqual([invitation]);
  const mail = must(app.mails.find(({ to }) => to === email));
  const token = must(/civ_[\w-]{43}/.exec(mail.text)?.[0]);
  expect(
    JSON.stringify(invitation, (_key, value) => (typeof value === "bigint" ? "" : value)),
  ).not.toContain("civ_");
  const { account } = await app.client(AccountService, guest.token).acceptInvitation({ token });

  expect(account).toMatchObject({ id: owner.accountId, role: ShownRole.MEMBER });
  const mine = await app.client(AccountService, guest.token).listAccounts({});
  expect(mine.accounts.map(({ id, role }) => [id, role])).toEqual([
    [guest.accountId, ShownRole.OWNER],
    [owner.accountId, ShownRole.MEMBER],
  ]);
  const catalog = acting(app, CatalogService, guest, owner.accountId);
  const draft = { name: "x", slug: `a${randomUUID()}`, upstreamUrl: "http://127.0.0.1:9" };
  const { api } = await catalog.createApi(draft);
  expect(api?.developerAccountId).toBe(owner.accountId);
  const { members } = await accounts.listMembers({});
  expect(members.map(({ userId, role }) => [userId, role])).toEqual([
    [owner.userId, ShownRole.OWNER],
    [guest.userId, ShownRole.MEMBER],
  ]);
  expect((await accounts.listInvitations({})).invitations).toEqual([]);
});

test("an invitation is good for one person, even when many accept at once", async ({ app }) => {
  const owner = await newPerson(app.db);
  const email = `${randomUUID()}@x.example`;
  await app.client(AccountService, owner.token).createInvitation({ email, role: ShownRole.ADMIN });
  const token = tokenTo(app, email);
  const guests = await Promise.all(Array.from({ length: 5 }, () => newPerson(app.db)));

  const outcomes = await Promise.all(
    guests.map((guest) =>
      app
        .client(AccountService, guest.token)
        .acceptInvitation({ token })
        .then(() => "done", codeOf),
    ),
  );

  expect(outcomes.toSorted()).toEqual(
    [Code.NotFound, Code.NotFound, Code.NotFound, Code.NotFound, "done"].toSorted(),
  );
});

test.for([
  { what: "revoked", sql: "update invitations set revoked_at = now() where email = $1" },
  { what: "too old", sql: "update invitations set expire_at = now() where email = $1" },
])("an invitation that is $what is not accepted", async ({ sql }, { app }) => {
  const [owner, guest] = [await newPerson(app.db), await newPerson(app.db)];
  const email = `${randomUUID()}@x.example`;
  await app.client(AccountService, owner.token).createInvitation({ email, role: ShownRole.ADMIN });
  await asSuperuser(app, (client) => client.query(sql, [email]));

  const outcome = app
    .client(AccountService, guest.token)
    .acceptInvitation({ token: tokenTo(app, email) });

  await expect(outcome).rejects.toMatchObject({ code: Code.NotFound });
});

test("a newer invitation to an address ends the older one; a revoked one is gone", async ({
  app,
}) => {
  const [owner, guest] = [await newPerson(app.db), await newPerson(app.db)];
  const accounts = app.client(AccountService, owner.token);
  const email = `${randomUUID()}@x.example`;
  await accounts.createInvitation({ email, role: ShownRole.ADMIN });
  const { invitation } = await accounts.createInvitation({
    email: email.toUpperCase(),
    role: ShownRole.VIEWER,
  });
  const old = tokenTo(app, email);

  expect((await accounts.listInvitations({})).invitations).toEqual([invitation]);
  const outcome = app.client(AccountService, guest.token).acceptInvitation({ token: old });
  await expect(outcome).rejects.toMatchObject({ code: Code.NotFound });
  await accounts.revokeInvitation({ invitationId: must(invitation).id });
  expect((await accounts.listInvitations({})).invitations).toEqual([]);
});

test("an invitation whose mail cannot be sent says so, and is mailed by its retry, once", async ({
  app,
}) => {
  const [owner, guest] = [await newPerson(app.db), await newPerson(app.db)];
  const accounts = app.client(AccountService, owner.token);
  const email = `${randomUUID()}@x.example`;
  const requestId = randomUUID();
  const invite = () => accounts.createInvitation({ requestId, email, role: ShownRole.ADMIN });
  const sent = () => app.mails.filter(({ to }) => to === email).length;

  app.mailFaults.push(new Error("the mail server is away"));
  await expect(invite()).rejects.toMatchObject({ code: Code.Unavailable });
  const [open] = (await accounts.listInvitations({})).invitations;
  expect(sent()).toBe(0);
  const answers = [await invite(), await invite()];

  expect(answers.map(({ invitation }) => invitation)).toEqual([open, open]);
  expect(sent()).toBe(1);
  const outcome = app.client(AccountService, guest.token);
  await expect(outcome.acceptInvitation({ token: tokenTo(app, email) })).resolves.toBeDefined();
});

test("nobody has more mail sent to an address than ten at once", async ({ app }) => {
  const owners = [await newPerson(app.db), await newPerson(app.db)];
  const email = `${randomUUID()}@x.example`;
  const invite = (owner: SignedIn | undefined, to: string) =>
    app
      .client(AccountService, must(owner).token)
      .createInvitation({ email: to, role: ShownRole.VIEWER })
      .then(() => "done", codeOf);
  const outcomes = [];
  for (let round = 0; round < 6; round++) {
    outcomes.push(await invite(owners[0], email), await invite(owners[1], email.toUpperCase()));
  }

  expect(outcomes.filter((one) => one === "done")).toHaveLength(10);
  expect(outcomes.slice(10)).toEqual([Code.ResourceExhausted, Code.ResourceExhausted]);
  expect(await invite(owners[0], `other.${email}`)).toBe("done");
});

test("an invitation's token is in the mail alone", async ({ app }) => {
  const owner = await newPerson(app.db);
  const email = `${randomUUID()}@x.example`;
  await app.client(AccountService, owner.token).createInvitation({ email, role: ShownRole.ADMIN });
  const token = tokenTo(app, email);

  const stored: string[] = [];
  await asSuperuser(app, async (client) => {
    for (const table of ["invitations", "invitation_directory", "audit_logs", "idempotency_keys"]) {
      const { rows } = await client.query(`select one::text as line from ${table} as one`);
      stored.push(...rows.map(({ line }) => line));
    }
  });

  expect(stored.length).toBeGreaterThan(3);
  expect(stored.join()).not.toContain(token);
  expect(app.lines.join()).not.toContain(token);
});

const triples = memberRoles.flatMap((by) =>
  memberRoles.flatMap((of) => memberRoles.map((to) => ({ by, of, to }))),
);

test.for(triples)("a $by makes a $of a $to, or not", async ({ by, of, to }, { app }) => {
  const { accountId } = await newPerson(app.db);
  const [caller, member] = [
    await newMember(app, accountId, by),
    await newMember(app, accountId, of),
  ];
  const { userId } = member;
  const may = grantProblem(by, of) === null && grantProblem(by, to) === null;

  const outcome = await acting(app, AccountService, caller, accountId)
    .setMemberRole({ userId, role: shown[to] })
    .then(({ member: now }) => now?.role, codeOf);

  expect(outcome).toBe(may ? shown[to] : Code.PermissionDenied);
  expect(await rolesIn(app, accountId)).toMatchObject({ [userId]: may ? to : of });
});

const removals = memberRoles.flatMap((by) => memberRoles.map((of) => ({ by, of })));

test.for(removals)("a $by removes a $of, and invites one, or not", async ({ by, of }, { app }) => {
  const { accountId } = await newPerson(app.db);
  const [caller, member] = [
    await newMember(app, accountId, by),
    await newMember(app, accountId, of),
  ];
  const accounts = acting(app, AccountService, caller, accountId);
  const may = grantProblem(by, of) === null;
  const email = `${randomUUID()}@x.example`;

  const removed = await accounts.removeMember({ userId: member.userId }).then(() => "done", codeOf);
  const invited = await accounts
    .createInvitation({ email, role: shown[of] })
    .then(() => "done", codeOf);

  expect([removed, invited]).toEqual(
    may ? ["done", "done"] : [Code.PermissionDenied, Code.PermissionDenied],
  );
  expect(member.userId in (await rolesIn(app, accountId))).toBe(!may);
  expect(app.mails.some(({ to }) => to === email)).toBe(may);
});

test.for(memberRoles)(
  "a %s renames the account and changes things in it, or not",
  async (role, { app }) => {
    const { accountId } = await newPerson(app.db);
    const caller = await newMember(app, accountId, role);
    const draft = { name: "x", slug: `a${randomUUID()}`, upstreamUrl: "http://127.0.0.1:9" };

    const renamed = acting(app, AccountService, caller, accountId).updateAccount({ name: "New" });
    const created = acting(app, CatalogService, caller, accountId).createApi(draft);
    const seen = acting(app, CreditService, caller, accountId).getBalance({});

    const denied = Code.PermissionDenied;
    const outcomes = await Promise.all(
      [renamed, created, seen].map((one) => one.then(() => "done", codeOf)),
    );
    expect(outcomes).toEqual([
      role === "owner" || role === "admin" ? "done" : denied,
      role === "viewer" ? denied : "done",
      "done",
    ]);
  },
);

test("nobody changes their own role", async ({ app }) => {
  const { accountId } = await newPerson(app.db);
  for (const role of memberRoles) {
    const caller = await newMember(app, accountId, role);
    const change = { userId: caller.userId, role: ShownRole.OWNER };

    const outcome = acting(app, AccountService, caller, accountId).setMemberRole(change);

    await expect(outcome).rejects.toMatchObject({ code: Code.PermissionDenied });
  }
});

test("an admin does not end an owner's invitation by another to the address", async ({ app }) => {
  const owner = await newPerson(app.db);
  const admin = await newMember(app, owner.accountId, "admin");
  const guest = await newPerson(app.db);
  const email = `${randomUUID()}@x.example`;
  const invite = (by: SignedIn, role: ShownRole) =>
    acting(app, AccountService, by, owner.accountId).createInvitation({ email, role });
  await invite(owner, ShownRole.OWNER);

  const refusal = { code: Code.PermissionDenied };
  await expect(invite(admin, ShownRole.VIEWER)).rejects.toMatchObject(refusal);

  const token = tokenTo(app, email);
  const accepted = app.client(AccountService, guest.token).acceptInvitation({ token });
  await expect(accepted).resolves.toMatchObject({ account: { role: ShownRole.OWNER } });
});

test("an owner who was deactivated does not let the last one go", async ({ app }) => {
  const { accountId, userId } = await newPerson(app.db);
  const owner = await newMember(app, accountId, "owner");
  const accounts = acting(app, AccountService, owner, accountId);
  const users = app.client(UserService, (await app.admin()).token);
  await users.deactivateUser({ userId });
  const refused = { code: Code.FailedPrecondition };

  await expect(accounts.removeMember({ userId: owner.userId })).rejects.toMatchObject(refused);

  await users.updateUser({ userId, isActive: true });
  await expect(accounts.removeMember({ userId: owner.userId })).resolves.toBeDefined();
});

test("everybody may leave, but not their own account, and not as the last owner", async ({
  app,
}) => {
  const home = await newPerson(app.db);
  const { accountId } = home;
  const [viewer, owner] = [
    await newMember(app, accountId, "viewer"),
    await newMember(app, accountId, "owner"),
  ];
  const leave = (person: SignedIn) =>
    acting(app, AccountService, person, accountId)
      .removeMember({ userId: person.userId })
      .then(() => "done", reasonOf);

  expect(await leave(viewer)).toBe("done");
  expect(await leave(home)).toBe("HOME_ACCOUNT");
  const demoted = acting(app, AccountService, owner, accountId);
  await demoted.setMemberRole({ userId: home.userId, role: ShownRole.VIEWER });
  expect(await leave(owner)).toBe("LAST_OWNER");
  const outcome = await acting(app, AccountService, owner, accountId)
    .removeMember({ userId: home.userId })
    .then(() => "done", reasonOf);
  expect(outcome).toBe("HOME_ACCOUNT");
});

test("two owners who demote each other at the same moment leave one", async ({ app }) => {
  const home = await newPerson(app.db);
  const { accountId } = home;
  const owners = [home, await newMember(app, accountId, "owner")];

  const outcomes = await asSuperuser(app, async (client) => {
    // Both calls wait for this transaction, and so neither has seen what the other does.
    await client.query("begin");
    await client.query("select from accounts where account_id = $1 for update", [accountId]);
    const calls = owners.map((person, index) => {
      const other = must(owners[1 - index]);
      const change = { userId: other.userId, role: ShownRole.MEMBER };
      return acting(app, AccountService, person, accountId)
        .setMemberRole(change)
        .then(() => "done", codeOf);
    });
    await until(async () => {
      // Within a transaction one look would be shown again and again.
      await client.query("select pg_stat_clear_snapshot()");
      const { rows } = await client.query(
        `select from pg_stat_activity
         where wait_event_type = 'Lock' and datname = current_database()`,
      );
      return rows.length === 2;
    });
    await client.query("commit");
    return Promise.all(calls);
  });

  expect(outcomes.filter((one) => one === "done")).toHaveLength(1);
  const left = Object.values(await rolesIn(app, accountId)).filter((role) => role === "owner");
  expect(left).toHaveLength(1);
});

test("whoever was removed is out at once, and comes back by an invitation", async ({ app }) => {
  const owner = await newPerson(app.db);
  const guest = await newMember(app, owner.accountId, "member");
  const guestAccounts = acting(app, AccountService, guest, owner.accountId);
  await expect(guestAccounts.getAccount({})).resolves.toBeDefined();

  await app.client(AccountService, owner.token).removeMember({ userId: guest.userId });

  await expect(guestAccounts.getAccount({})).rejects.toMatchObject({ code: Code.NotFound });
  const email = `${randomUUID()}@x.example`;
  await app.client(AccountService, owner.token).createInvitation({ email, role: ShownRole.VIEWER });
  await app.client(AccountService, guest.token).acceptInvitation({ token: tokenTo(app, email) });
  const { account } = await guestAccounts.getAccount({});
  expect(account?.role).toBe(ShownRole.VIEWER);
});

test("an account that is another's looks like one that there is not", async ({ app }) => {
  const [me, other] = [await newPerson(app.db, "super_admin"), await newPerson(app.db)];
  const ask = (accountId: string) =>
    fetch(`${app.url}/api/v1/account`, {
      headers: {
        authorization: `Bearer ${me.token}`,
        "x-account-id": accountId,
        "x-request-id": "same",
      },
    });

  const [theirs, nobodys] = [await ask(other.accountId), await ask(`acc_${"1".repeat(26)}`)];

  expect([theirs.status, nobodys.status]).toEqual([404, 404]);
  expect(await theirs.json()).toEqual(await nobodys.json());
  expect((await ask("x")).status).toBe(400);
});

test("what is a person's own stays theirs, whichever account they act for", async ({ app }) => {
  const owner = await newPerson(app.db);
  const guest = await newMember(app, owner.accountId, "viewer");

  const session = await makeSession(app.db, guest);
  const response = await fetch(`${app.url}/api/v1/auth/tokens`, {
    method: "POST",
    headers: {
      authorization: `Bearer ${session.token}`,
      "x-account-id": owner.accountId,
      "content-type": "application/json",
    },
    body: JSON.stringify({ name: "x" }),
  });

  const { token } = await response.json();
  const { user } = await app.client(AuthService, token).getMe({});
  expect(user).toMatchObject({ id: guest.userId, accountId: guest.accountId });
});

function tokenTo(app: App, email: string): string {
  const mail = must(app.mails.find(({ to }) => to === email));
  return must(/civ_[\w-]{43}/.exec(mail.text)?.[0]);
}

function codeOf(error: unknown): Code {
  return ConnectError.from(error).code;
}

function reasonOf(error: unknown): string {
  return /"reason":"(\w+)"/.exec(JSON.stringify(ConnectError.from(error).details))?.[1] ?? "";
}

async function rolesIn(app: App, accountId: string): Promise<Record<string, MemberRole>> {
  const { rows } = await asSuperuser(app, (client) =>
    client.query("select user_id, role from members where account_id = $1 and removed_at is null", [
      accountId,
    ]),
  );
  return Object.fromEntries(rows.map(({ user_id, role }) => [user_id, role]));
}
