import { randomUUID } from "node:crypto";
import type { UserRow } from "../../src/accounts/store.ts";
import { createUser } from "../../src/accounts/users.ts";
import type { Database } from "../../src/db/database.ts";
import { must } from "./app.ts";
import { makeToken } from "./tokens.ts";

/** Make a person with an API token, past the limits of the calls that make people. */
export async function newPerson(db: Database, role: UserRow["role"] = "user") {
  const person = { username: randomUUID(), email: "", role };
  const user = must(await db.systemTransaction((tx) => createUser(tx, person, new Date())));
  const { account_id: accountId, id: userId } = user;
  return { accountId, userId, token: await makeToken(db, { accountId, userId }) };
}

/** A person who is signed in. */
export type SignedIn = Awaited<ReturnType<typeof newPerson>>;
