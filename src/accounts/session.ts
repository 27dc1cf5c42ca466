import { createHash, randomBytes } from "node:crypto";
import type { Database } from "../db/database.ts";
import { bearerToken } from "../rpc/credentials.ts";
import type { Authenticator, Principal } from "../rpc/principal.ts";
import { type CallerRow, listCallers, listSessions, type SessionRow } from "./session-store.ts";
import type { Trust } from "./trust.ts";

/** How long a sign-in over RPC lasts. */
export const sessionSeconds = 12 * 60 * 60;

/** `cs_` tokens, and those that better-auth mints. */
const tokenPattern = /^(?:cs_[A-Za-z0-9_-]{43}|[A-Za-z0-9]{32})$/;

/** Entries of each memory. One takes less than 500 bytes. */
const entriesMax = 50_000;

/** Mint a session token. Only its hash is kept. */
export function mintSessionToken(): { token: string; hash: Buffer } {
  const token = `cs_${randomBytes(32).toString("base64url")}`;
  return { token, hash: hashToken(token) };
}

/** Hash a session token for look-up. It is random, so no salt and no slow hash. */
export function hashToken(token: string): Buffer {
  return createHash("sha256").update(token).digest();
}

/** Knows who holds which session. */
export interface Sessions {
  /** The caller whose session has the token, or the id. Undefined when it is over or its person may not call. */
  find(by: { token: string } | { id: string }, now: Date): Promise<Principal | undefined>;
}

/**
 * Look sessions up through what is remembered of them. Whoever ends a session announces its id and
 * the hash of its token under the topic "session"; whoever changes a person their id under "user".
 */
export function createSessions({ db, trust }: { db: Database; trust: Trust }): Sessions {
  const sessions = trust.remember<SessionRow>("session", {
    load: async (keys) => {
      const rows = await db.systemTransaction((tx) => listSessions(tx, keys));
      return new Map(rows.map((row) => [row.key, row]));
    },
    entriesMax,
  });
  const callers = trust.remember<CallerRow>("user", {
    load: async (ids) => {
      const rows = await db.systemTransaction((tx) => listCallers(tx, ids));
      return new Map(rows.map((row) => [row.id, row]));
    },
    entriesMax,
  });
  return {
    async find(by, now) {
      const key = "id" in by ? by.id : hashToken(by.token).toString("hex");
      const session = await sessions.get(key);
      if (session === null || session.expire_at <= now.getTime()) {
        return undefined;
      }
      const caller = await callers.get(session.user_id);
      return caller === null ? undefined : toPrincipal(caller, session);
    },
  };
}

function toPrincipal(caller: CallerRow, session: SessionRow): Principal {
  return {
    kind: "user",
    id: caller.id,
    accountId: caller.account_id,
    role: caller.role,
    mode: "live",
    credential: "session",
    credentialId: session.id,
  };
}

/** Find the person whose session token the `Authorization` header carries. */
export function sessionAuthenticator({
  sessions,
  now,
}: {
  sessions: Sessions;
  now: () => Date;
}): Authenticator {
  return async ({ header }) => {
    const token = bearerToken(header);
    if (token === undefined || !tokenPattern.test(token)) {
      return undefined;
    }
    return sessions.find({ token }, now());
  };
}
