import type { Tx } from "../db/pool.ts";
import { newId } from "../lib/id.ts";
import { insertMember } from "./member-store.ts";
import { claimNames, insertAccount, insertPerson, insertUser, type UserRow } from "./store.ts";

/** Create a person who owns an account of their own. Null when the name or the address is taken. */
export async function createUser(
  tx: Tx,
  user: {
    username: string;
    email: string;
    /** Empty: no password is theirs. */
    passwordHash: string;
    role: UserRow["role"];
    /** What the account is called. The username unless said otherwise. */
    accountName?: string;
  },
  now: Date,
): Promise<UserRow | null> {
  const accountId = newId("acc", now);
  const id = newId("usr", now);
  const { username, email } = user;
  if (!(await claimNames(tx, { username, email, accountId, userId: id }))) {
    return null;
  }
  await insertAccount(tx, { accountId, name: user.accountName ?? username });
  const row = await insertUser(tx, { accountId, id, ...user });
  await insertPerson(tx, id, accountId);
  await insertMember(tx, { accountId, userId: id, role: "owner" });
  return row;
}
