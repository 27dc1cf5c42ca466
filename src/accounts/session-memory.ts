import type { Database } from "../db/database.ts";
import type { Trust } from "../db/trust.ts";
import { andThen, type MaybePromise } from "../lib/maybe-promise.ts";
import type { SignedIn } from "./people.ts";
import {
  type LiveSessionRow,
  listLiveSessions,
  listSessionsByHash,
  type SessionRow,
} from "./session-store.ts";
import { hashToken } from "./token.ts";

/** Sessions that are remembered. One takes less than 500 bytes. */
const sessionsMax = 50_000;

/** Knows whose sessions are, whether a cookie opens them or a signed token names them. */
export interface Sessions {
  /** Undefined when there is none of the id, or it is over. Whether its person may call is another question. */
  find(id: string, now: Date): MaybePromise<SignedIn | undefined>;
  /** Find the session that a token of better-auth opens. What `beforeLoad` throws is thrown instead of a look-up. */
  findByToken(
    token: string,
    now: Date,
    beforeLoad?: () => void,
  ): MaybePromise<SignedIn | undefined>;
}

/**
 * Remember sessions. Whoever ends one announces its id under the topic "session". Which session a token is of never
 * changes, so nobody announces that.
 */
export function rememberSessions({ db, trust }: { db: Database; trust: Trust }): Sessions {
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
  const find = (id: string, now: Date) =>
    andThen(sessions.get(id), (session) =>
      session === null || session.expire_at <= now.getTime() ? undefined : toSignedIn(session),
    );
  return {
    find,
    findByToken: (token, now, beforeLoad) =>
      andThen(ids.get(hashToken(token).toString("hex"), beforeLoad), (id) =>
        id === null ? undefined : find(id, now),
      ),
  };
}

function toSignedIn({ id, user_id: userId, method }: LiveSessionRow): SignedIn {
  return { userId, credential: credentialOf[method], credentialId: id };
}

const credentialOf = {
  password: "jwt",
  wallet: "wallet",
  cookie: "session",
} as const satisfies Record<SessionRow["method"], string>;
