import { Code, type ConnectError } from "@connectrpc/connect";
import type { Database } from "../db/database.ts";
import type { Tx } from "../db/pool.ts";
import { reasoned } from "../rpc/errors.ts";
import { type Attempt, type Lockout, strangerOf } from "./lockout.ts";
import { findLogin, findPasswordHash, type LoginRow } from "./login-store.ts";
import type { PasswordHasher } from "./password.ts";
import { holdPerson } from "./store.ts";

/**
 * Find the person who has the name or mail address and the password. Null when nobody has, or may not sign in.
 *
 * Always hashes once, so that the time does not tell whether the name is known. The caller must refuse whoever has
 * a second factor (`two_factor_enabled`) unless that was shown too. Throws RESOURCE_EXHAUSTED with reason
 * SIGN_IN_DELAYED, before that, after too many wrong passwords.
 */
export async function checkPassword(
  { db, passwords, lockout }: { db: Database; passwords: PasswordHasher; lockout: Lockout },
  { name, password, ip, now }: { name: string; password: string; ip: string; now: Date },
): Promise<LoginRow | null> {
  const login = await db.systemTransaction((tx) => findLogin(tx, name));
  const attempt = attemptOf(login, { name, ip, now });
  await lockout.check(attempt);
  const isRight = await passwords.verify(password, login?.password_hash ?? undefined);
  if (login === null || !isRight || !login.active) {
    await lockout.failed(attempt);
    return null;
  }
  lockout.succeeded(attempt);
  return login;
}

/** The attempt to sign in as the person who was found under a name, or as nobody. */
export function attemptOf(
  login: LoginRow | null,
  { name, ip, now }: { name: string; ip: string; now: Date },
): Attempt {
  const subject = login?.id ?? strangerOf(name);
  return { subject, passwordHash: login?.password_hash ?? null, ip, now };
}

/**
 * Whether a person, who was found to be it a while ago, may still sign in: they are not deactivated, and the password is
 * the one that was checked, if one was. Ask in the transaction that opens the session; so does it not outlive what ends
 * all that the person has.
 */
export async function maySignIn(
  tx: Tx,
  person: { accountId: string; userId: string; passwordHash: string | undefined },
): Promise<boolean> {
  const { userId, passwordHash } = person;
  if (!(await holdPerson(tx, person))) {
    return false;
  }
  return passwordHash === undefined || (await findPasswordHash(tx, userId)) === passwordHash;
}

/** UNAUTHENTICATED with reason CREDENTIALS_INVALID: whatever of it is wrong. */
export function wrongCredentials(): ConnectError {
  return reasoned(Code.Unauthenticated, {
    reason: "CREDENTIALS_INVALID",
    message: "Cannot sign in: the username or the password is wrong",
  });
}
