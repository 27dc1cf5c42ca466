import type { Tx } from "../db/pool.ts";
import { newId } from "../lib/id.ts";
import { claimNames, insertAccount, insertUser, type UserRow } from "./store.ts";

/** Create a person with an account of their own. Null when the name or the address is taken. */
export async function createUser(
  tx: Tx,
  user: { username: string; email: string; passwordHash: string; role: UserRow["role"] },
  now: Date,
): Promise<UserRow | null> {
  const accountId = newId("acc", now);
  const id = newId("usr", now);
  const { username, email } = user;
  if (!(await claimNames(tx, { username, email, accountId, userId: id }))) {
    return null;
  }
  await insertAccount(tx, { accountId, name: username });
  return insertUser(tx, { accountId, id, ...user });
}
