import type { Tx } from "../db/pool.ts";
import { newId } from "../lib/id.ts";
import { insertMember } from "./member-store.ts";
import { claimNames, insertAccount, insertPerson, insertUser, type UserRow } from "./store.ts";

/** A person who is to be made. */
export interface NewUser {
  username: string;
  /** Empty: none. */
  email: string;
  role: UserRow["role"];
  /** Undefined: there is another way to sign in. */
  passwordHash?: string;
  /** What the account is called. Undefined: the username. */
  name?: string;
}

/** Create a person who owns an account of their own. Null when the name or the address is taken. */
export async function createUser(tx: Tx, user: NewUser, now: Date): Promise<UserRow | null> {
  const accountId = newId("acc", now);
  const id = newId("usr", now);
  const { username, email, role, passwordHash = "", name = username } = user;
  if (!(await claimNames(tx, { username, email, accountId, userId: id }))) {
    return null;
  }
  await insertAccount(tx, { accountId, name });
  const row = await insertUser(tx, { accountId, id, username, email, passwordHash, role });
  await insertPerson(tx, id, accountId);
  await insertMember(tx, { accountId, userId: id, role: "owner" });
  return row;
}
