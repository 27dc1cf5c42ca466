import type { Database } from "../db/database.ts";
import type { Trust } from "../db/trust.ts";
import {
  type LiveSessionRow,
  listLiveSessions,
  listSessionsByHash,
} from "./cookie-session-store.ts";
import type { SignedIn } from "./people.ts";
import { hashToken } from "./session.ts";

/** Sessions that are remembered. One takes less than 500 bytes. */
const sessionsMax = 50_000;

/** Knows whose session a token opens. */
export interface CookieSessions {
  /** Undefined when it is over. Whether its person may call is another question. */
  find(token: string, now: Date): Promise<SignedIn | undefined>;
}

/**
 * Look sessions up through what is remembered of them. Whoever ends a session announces its id under the topic
 * "session". Which session a token is of never changes, so nobody announces that.
 */
export function createCookieSessions({
  db,
  trust,
}: {
  db: Database;
  trust: Trust;
}): CookieSessions {
  const ids = trust.remember<string>("session_token", {
    entriesMax: sessionsMax,
    load: async (hashes) => {
      const rows = await db.systemTransaction((tx) => listSessionsByHash(tx, hashes));
      return new Map(rows.map(({ hash, id }) => [hash, id]));
    },
  });
  const sessions = trust.remember<LiveSessionRow>("session", {
    entriesMax: sessionsMax,
    load: async (wanted) => {
      const rows = await db.systemTransaction((tx) => listLiveSessions(tx, wanted));
      return new Map(rows.map((row) => [row.id, row]));
    },
  });
  return {
    async find(token, now) {
      const id = await ids.get(hashToken(token).toString("hex"));
      const session = id === null ? null : await sessions.get(id);
      return session === null || session.expire_at <= now.getTime()
        ? undefined
        : { userId: session.user_id, credential: "session", credentialId: session.id };
    },
  };
}
