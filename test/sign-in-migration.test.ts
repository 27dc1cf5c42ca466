import { randomBytes } from "node:crypto";
import { expect, inject, test } from "vitest";
import { findLogin } from "../src/accounts/login-store.ts";
import { createPasswordHasher } from "../src/accounts/password.ts";
import { migrateDown, migrateUp } from "../src/db/migrate.ts";
import { newId } from "../src/lib/id.ts";
import { openDatabase } from "../src/server.ts";
import { must } from "./support/app.ts";
import { createDatabase } from "./support/cluster.ts";
import { asSuperuser } from "./support/superuser.ts";

const directory = "migrations";

test("passwords and sessions of before go along when sign-in moves, and back", async () => {
  const database = await createDatabase(inject("cluster"));
  await using stack = new AsyncDisposableStack();
  stack.defer(() => database.drop());
  const { owner } = database.urls;
  await migrateDown(owner, { directory, to: 10 });
  const hash = await createPasswordHasher().hash("correct horse battery");
  const [account, user] = [newId("acc", new Date()), newId("usr", new Date())];
  const token = randomBytes(32);
  await asSuperuser(database, async (client) => {
    await client.query("insert into accounts (account_id, name) values ($1, 'x')", [account]);
    await client.query(
      `insert into users (account_id, id, username, password_hash, role)
       values ($1, $2, 'ada', $3, 'user')`,
      [account, user, hash],
    );
    await client.query("insert into user_directory values ('ada', $1, $2)", [account, user]);
    await client.query(
      "insert into sessions (token_hash, account_id, user_id, expire_at) values ($1, $2, $3, '2100-01-01')",
      [token, account, user],
    );
  });
  const kept = () =>
    asSuperuser(database, async (client) => ({
      users: (await client.query("select password_hash from users")).rows,
      sessions: (await client.query("select token_hash from sessions")).rows,
    }));
  const before = await kept();

  await migrateUp(owner, { directory });
  const db = await openDatabase(database.urls);
  const login = await db.systemTransaction((tx) => findLogin(tx, "ada")).finally(() => db.close());
  const sessions = await asSuperuser(database, (client) => client.query("select id from sessions"));
  await migrateDown(owner, { directory, to: 10 });

  expect(must(login)).toMatchObject({ id: user, account_id: account, password_hash: hash });
  expect(sessions.rows).toEqual([{ id: expect.stringMatching(/^ses_[0-9a-v]{26}$/) }]);
  expect(await kept()).toEqual(before);
});
