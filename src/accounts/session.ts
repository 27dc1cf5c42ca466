import type { Database } from "../db/database.ts";
import type { Tx } from "../db/pool.ts";
import { newId } from "../lib/id.ts";
import { bearerToken } from "../rpc/credentials.ts";
import { type JwtKeeper, jwtSeconds } from "./jwt.ts";
import type { CredentialReader } from "./people.ts";
import { findSessions, insertSession, type SessionRow } from "./session-store.ts";
import type { Trust } from "./trust.ts";

/** Open a session in the transaction. Returns its id. */
export async function openSession(
  tx: Tx,
  session: {
    accountId: string;
    userId: string;
    method: SessionRow["method"];
    ip: string;
    now: Date;
  },
): Promise<string> {
  const { now } = session;
  const id = newId("ses", now);
  const expireAt = new Date(now.getTime() + jwtSeconds * 1000);
  await insertSession(tx, { id, ...session, expireAt });
  return id;
}

const sessionsMax = 50_000;

/** Read the signed token of a session. It is refused as soon as its session is revoked. */
export function sessionReader(deps: {
  db: Database;
  trust: Trust;
  jwt: JwtKeeper;
  now: () => Date;
}): CredentialReader {
  const { db, jwt, now } = deps;
  const sessions = deps.trust.remember<SessionRow>("session", {
    entriesMax: sessionsMax,
    async load(ids) {
      const rows = await db.systemTransaction((tx) => findSessions(tx, ids));
      return new Map(rows.map((row) => [row.id, row]));
    },
  });

  return async ({ header }) => {
    const token = bearerToken(header) ?? "";
    // Every one begins like that: what does not is not worth the work.
    const claims = token.startsWith("eyJ") ? await jwt.verify(token, now()) : null;
    if (claims === null) {
      return undefined;
    }
    const session = await sessions.get(claims.sessionId);
    const isLive =
      session !== null &&
      session.user_id === claims.userId &&
      session.revoked_at === null &&
      session.expire_at > now().getTime();
    return isLive
      ? {
          userId: session.user_id,
          credential: credentialOf[session.method],
          credentialId: session.id,
        }
      : undefined;
  };
}

const credentialOf = {
  password: "jwt",
  wallet: "wallet",
  cookie: "session",
} as const satisfies Record<SessionRow["method"], string>;
