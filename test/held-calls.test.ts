import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { type IncomingMessage, request } from "node:http";
import { text } from "node:stream/consumers";
import { create, toBinary } from "@bufbuild/protobuf";
import { expect } from "vitest";
import {
  AuthService,
  CreateTokenRequestSchema,
} from "../gen/callora/accounts/v1/auth_service_pb.ts";
import { PlatformRole, UserService } from "../gen/callora/accounts/v1/user_service_pb.ts";
import { insertMember } from "../src/accounts/member-store.ts";
import { newPerson, type SignedIn } from "./support/people.ts";
import { changeAmid } from "./support/superuser.ts";
import { test } from "./support/test.ts";
import { makeSession } from "./support/tokens.ts";

interface Call {
  path: string;
  token: string;
  body: object | Uint8Array;
  headers?: Record<string, string>;
}

/** Send a call but for the last byte of its body, until the server asks for that. */
async function hold({ url }: { url: string }, { path, token, body, headers = {} }: Call) {
  const bytes = body instanceof Uint8Array ? Buffer.from(body) : Buffer.from(JSON.stringify(body));
  const sent = request(new URL(path, url), {
    method: "POST",
    agent: false,
    headers: {
      authorization: `Bearer ${token}`,
      "content-type": "application/json",
      "content-length": String(bytes.length),
      expect: "100-continue",
      ...headers,
    },
  });
  const answered = once(sent, "response") as Promise<[IncomingMessage]>;
  sent.flushHeaders();
  await once(sent, "continue");
  sent.write(bytes.subarray(0, -1));
  return {
    /** Send the last byte, and read the answer. */
    async finish(): Promise<{ status: number; body: string }> {
      sent.end(bytes.subarray(-1));
      const [response] = await answered;
      return { status: response.statusCode ?? 0, body: await text(response) };
    },
  };
}

function grpcFrame(message: Uint8Array): Uint8Array {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}

const connectPath = "/callora.accounts.v1.AuthService/CreateToken";

/** A way to ask for a token, and what a refusal looks like there. */
const ways = {
  REST: {
    call: { path: "/api/v1/auth/tokens", body: { name: "x" } },
    refusal: "CREDENTIALS_REQUIRED",
  },
  Connect: { call: { path: connectPath, body: { name: "x" } }, refusal: "unauthenticated" },
  "connect-node": {
    call: {
      path: connectPath,
      body: grpcFrame(
        toBinary(CreateTokenRequestSchema, create(CreateTokenRequestSchema, { name: "x" })),
      ),
      headers: { "content-type": "application/grpc-web+proto" },
    },
    refusal: "grpc-status: 16",
  },
} satisfies Record<string, { call: Omit<Call, "token">; refusal: string }>;

for (const [way, { call, refusal }] of Object.entries(ways)) {
  test(`a session that was ended mints no token by a call admitted before, over ${way}`, async ({
    app,
  }) => {
    const me = await newPerson(app.db);
    const { token } = await makeSession(app.db, me);
    const auth = app.client(AuthService, token);
    await auth.getMe({});
    const held = await hold(app, { ...call, token });

    await auth.signOut({});

    expect((await held.finish()).body).toContain(refusal);
    const { tokens } = await app.client(AuthService, me.token).listTokens({});
    expect(tokens.map(({ name }) => name)).toEqual(["test"]);
  });
}

test("a member who was removed makes no key by a call admitted before", async ({ app }) => {
  const owner = await newPerson(app.db);
  const member = await newPerson(app.db);
  const announce = async (change: string) =>
    app.trust.settled(
      await app.db.systemTransaction(async (tx) => {
        if (change === "join") {
          await insertMember(tx, { ...owner, userId: member.userId, role: "member" });
        }
        return app.trust.announce(tx, "user", [member.userId]);
      }),
    );
  await announce("join");
  const headers = { "x-account-id": owner.accountId };
  const get = () =>
    fetch(`${app.url}/api/v1/account`, {
      headers: { ...headers, authorization: `Bearer ${member.token}` },
    });
  expect((await get()).status).toBe(200);
  const held = await hold(app, { path: "/api/keys", token: member.token, body: {}, headers });

  const gone = await fetch(`${app.url}/api/v1/account/members/${member.userId}`, {
    method: "DELETE",
    headers: { authorization: `Bearer ${owner.token}` },
  });
  expect(gone.status).toBe(200);

  expect(await held.finish()).toMatchObject({ status: 404 });
});

const newAdmin = () => ({
  username: `x${randomUUID().slice(0, 12)}`,
  password: "correct horse battery",
  role: "PLATFORM_ROLE_SUPER_ADMIN",
});

test("a super admin who was demoted makes no other by a call admitted before", async ({ app }) => {
  const by = await newPerson(app.db, "super_admin");
  const users = app.client(UserService, by.token);
  await users.listUsers({});
  const held = await hold(app, { path: "/api/v1/users", token: by.token, body: newAdmin() });

  await app
    .client(UserService, (await app.admin()).token)
    .setUserRole({ userId: by.userId, role: "user" });

  expect(await held.finish()).toMatchObject({ status: 403 });
});

const lockOf = ({ userId }: SignedIn) => `select from users where id = '${userId}' for update`;

test("a super admin who is demoted while a password is hashed makes no other", async ({ app }) => {
  const by = await newPerson(app.db, "super_admin");
  const users = app.client(UserService, by.token);
  const { username, password } = newAdmin();
  const role = PlatformRole.SUPER_ADMIN;

  const made = changeAmid(
    app,
    [
      "select pg_advisory_xact_lock(hashtext('callora admin'))",
      `update users set role = 'user' where id = '${by.userId}'`,
    ],
    () => users.createUser({ username, password, role }),
  );

  await expect(made).rejects.toThrow("only a super admin may");
});

test("no token is minted by a session while it is ended with the person's others", async ({
  app,
}) => {
  const me = await newPerson(app.db);
  const session = await makeSession(app.db, me);

  const made = changeAmid(
    app,
    [lockOf(me), `update sessions set revoked_at = now() where id = '${session.id}'`],
    () => app.client(AuthService, session.token).createToken({ name: "x" }),
  );

  await expect(made).rejects.toThrow("unauthenticated");
});

test("no token is minted for a person while they are deactivated", async ({ app }) => {
  const me = await newPerson(app.db);
  const session = await makeSession(app.db, me);

  const made = changeAmid(app, [`update users set active = false where id = '${me.userId}'`], () =>
    app.client(AuthService, session.token).createToken({ name: "x" }),
  );

  await expect(made).rejects.toThrow("unauthenticated");
});
