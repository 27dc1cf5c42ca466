import type { Database } from "../db/database.ts";
import type { Attempt, Lockout } from "./lockout.ts";
import { findLogin, type LoginRow } from "./login-store.ts";
import type { PasswordHasher } from "./password.ts";

/**
 * Find the person who has the name or mail address and the password. Null when nobody has, or may not sign in.
 *
 * Always hashes once, so that the time does not tell whether the name is known. The caller must refuse whoever has
 * a second factor (`two_factor_enabled`) unless that was shown too. Throws RESOURCE_EXHAUSTED with reason
 * SIGN_IN_DELAYED, before any work, after too many wrong passwords.
 */
export async function checkPassword(
  { db, passwords, lockout }: { db: Database; passwords: PasswordHasher; lockout: Lockout },
  { password, ...attempt }: Attempt & { password: string },
): Promise<LoginRow | null> {
  lockout.check(attempt);
  const login = await db.systemTransaction((tx) => findLogin(tx, attempt.name));
  const isRight = await passwords.verify(password, login?.password_hash ?? undefined);
  if (login === null || !isRight || !login.active) {
    lockout.failed(attempt);
    return null;
  }
  lockout.succeeded(attempt);
  return login;
}
