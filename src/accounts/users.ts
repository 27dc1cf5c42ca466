import type { Tx } from "../db/pool.ts";
import { newId } from "../lib/id.ts";
import { upsertPassword } from "./login-store.ts";
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
  /** Undefined: a new one. */
  id?: string;
  /** What others see, and what the account is called. Undefined: the username. */
  name?: string;
  emailVerified?: boolean;
  image?: string | null;
}

/** Create a person who owns an account of their own. Null when the name or the address is taken. */
export async function createUser(tx: Tx, user: NewUser, now: Date): Promise<UserRow | null> {
  const accountId = newId("acc", now);
  const { username, email, role, passwordHash, id = newId("usr", now) } = user;
  if (!(await claimNames(tx, { username, email, accountId, userId: id }))) {
    return null;
  }
  const { name = username, emailVerified = false, image = null } = user;
  await insertAccount(tx, { accountId, name });
  const row = { accountId, id, username, email, emailVerified, name, image, role };
  const inserted = await insertUser(tx, row);
  await insertPerson(tx, id, accountId);
  await insertMember(tx, { accountId, userId: id, role: "owner" });
  if (passwordHash !== undefined) {
    await upsertPassword(tx, { id: newId("sim", now), userId: id, passwordHash });
  }
  return inserted;
}
