import type { Tx } from "../db/pool.ts";
import { newId } from "../lib/id.ts";
import { andThen } from "../lib/maybe-promise.ts";
import { bearerToken } from "../rpc/credentials.ts";
import { type JwtKeeper, jwtSeconds } from "./jwt.ts";
import type { CredentialReader } from "./people.ts";
import type { Sessions } from "./session-memory.ts";
import { insertSession, type SessionRow } from "./session-store.ts";

/** Open a session, in the transaction, that a signed token is to name. Returns its id. */
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

/** Read the signed token of a session. It is refused as soon as its session is ended. */
export function jwtReader({
  sessions,
  jwt,
  now,
}: {
  sessions: Sessions;
  jwt: JwtKeeper;
  now: () => Date;
}): CredentialReader {
  return ({ header }) => {
    const token = bearerToken(header) ?? "";
    // Every one begins like that: what does not is not worth the work.
    if (!token.startsWith("eyJ")) {
      return undefined;
    }
    return jwt
      .verify(token, now())
      .then((claims) =>
        claims === null
          ? undefined
          : andThen(sessions.find(claims.sessionId, now()), (signedIn) =>
              signedIn?.userId === claims.userId ? signedIn : undefined,
            ),
      );
  };
}
