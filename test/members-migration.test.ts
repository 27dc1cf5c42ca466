import { expect, inject, test } from "vitest";
import { migrateDown, migrateUp } from "../src/db/migrate.ts";
import { newId } from "../src/lib/id.ts";
import { createDatabase } from "./support/cluster.ts";
import { asSuperuser } from "./support/superuser.ts";

const directory = "migrations";

test("whoever was there before owns the account that is theirs", async () => {
  const database = await createDatabase(inject("cluster"));
  await using stack = new AsyncDisposableStack();
  stack.defer(() => database.drop());
  const { owner } = database.urls;
  await migrateDown(owner, { directory, to: 11 });
  const [accountId, userId] = [newId("acc", new Date()), newId("usr", new Date())];
  await asSuperuser(database, async (client) => {
    await client.query("insert into accounts (account_id, name) values ($1, 'x')", [accountId]);
    const { rows } = await client.query(
      `select column_name as name from information_schema.columns
       where table_name = 'users' and column_name = 'password_hash'`,
    );
    const extra = rows.length > 0 ? ["password_hash"] : [];
    const columns = ["account_id", "id", "username", "role", ...extra];
    const values = [accountId, userId, "ada", "user", ...extra.map(() => "x")];
    await client.query(
      `insert into users (${columns}) values (${values.map((_value, index) => `$${index + 1}`)})`,
      values,
    );
  });

  await migrateUp(owner, { directory });

  const found = await asSuperuser(database, async (client) => ({
    members: (await client.query("select account_id, user_id, role from members")).rows,
    directory: (await client.query("select account_id, user_id from member_directory")).rows,
  }));
  expect(found).toEqual({
    members: [{ account_id: accountId, user_id: userId, role: "owner" }],
    directory: [{ account_id: accountId, user_id: userId }],
  });
});
