import { randomUUID } from "node:crypto";
import { mintSessionToken } from "../../src/accounts/session.ts";
import { insertSession, type UserRow } from "../../src/accounts/store.ts";
import { createUser } from "../../src/accounts/users.ts";
import type { Database } from "../../src/db/database.ts";
import { newId } from "../../src/lib/id.ts";
import { must } from "./app.ts";

/** Make a person who is signed in, past the limits of the calls that make people. */
export async function newPerson(db: Database, role: UserRow["role"] = "user") {
  const now = new Date();
  const { token, hash } = mintSessionToken();
  const person = { username: randomUUID(), email: "", passwordHash: "none", role };
  const user = must(await db.systemTransaction((tx) => createUser(tx, person, now)));
  const { account_id: accountId, id: userId } = user;
  const tenant = { accountId, actor: userId, ip: "", requestId: "", action: "" };
  const expireAt = new Date(now.getTime() + 3_600_000);
  await db.tenantTransaction({ ...tenant, audited: () => {} }, (tx) =>
    insertSession(tx, { id: newId("ses", now), tokenHash: hash, accountId, userId, expireAt }),
  );
  return { accountId, userId, token };
}

/** A person who is signed in. */
export type SignedIn = Awaited<ReturnType<typeof newPerson>>;
