import { createHash, randomBytes } from "node:crypto";
import type { Database } from "../db/database.ts";
import { bearerToken } from "../rpc/credentials.ts";
import type { Authenticator } from "../rpc/principal.ts";
import { findSession } from "./store.ts";

/** How long a sign-in lasts. */
export const sessionSeconds = 12 * 60 * 60;

const tokenPattern = /^cs_[A-Za-z0-9_-]{43}$/;

/** Mint a session token. Only its hash is kept. */
export function mintSessionToken(): { token: string; hash: Buffer } {
  const token = `cs_${randomBytes(32).toString("base64url")}`;
  return { token, hash: hashToken(token) };
}

/** Find the person whose session token the `Authorization` header carries. */
export function sessionAuthenticator({
  db,
  now,
}: {
  db: Database;
  now: () => Date;
}): Authenticator {
  return async ({ header }) => {
    const token = bearerToken(header);
    if (token === undefined || !tokenPattern.test(token)) {
      return undefined;
    }
    const tokenHash = hashToken(token);
    const user = await db.systemTransaction((tx) => findSession(tx, { tokenHash, now: now() }));
    return user === null
      ? undefined
      : {
          kind: "user",
          id: user.id,
          accountId: user.account_id,
          role: user.role,
          mode: "live",
          credential: "session",
          credentialId: user.session_id,
        };
  };
}

/** Hash a session token for look-up. It is random, so no salt and no slow hash. */
export function hashToken(token: string): Buffer {
  return createHash("sha256").update(token).digest();
}
