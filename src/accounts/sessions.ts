import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import type { AuthService } from "../../gen/callora/accounts/v1/auth_service_pb.ts";
import type { Database } from "../db/database.ts";
import type { Trust } from "../db/trust.ts";
import { failedPrecondition, notFound } from "../rpc/errors.ts";
import { personalTenant, requireUser, tenantFor } from "../rpc/principal.ts";
import { type JwtKeeper, jwtSeconds } from "./jwt.ts";
import { openSession } from "./session.ts";
import { listSessions, revokeSession, type SessionRow } from "./session-store.ts";
import { toSession } from "./shown.ts";
import { maySignIn, wrongCredentials } from "./sign-in.ts";

/** What signing in and out needs. */
export interface SessionDeps {
  db: Database;
  trust: Trust;
  jwt: JwtKeeper;
  now: () => Date;
}

/**
 * Sign a person in, whom something has proved to be it: a password with a hash, if there is one. Returns the token and
 * how long it lasts. Throws UNAUTHENTICATED with reason CREDENTIALS_INVALID when that was changed meanwhile.
 */
export async function signIn(
  { db, jwt, now }: SessionDeps,
  ctx: HandlerContext,
  person: {
    accountId: string;
    userId: string;
    method: SessionRow["method"];
    passwordHash?: string | undefined;
  },
): Promise<{ token: string; tokenType: string; expiresIn: number }> {
  const { accountId, userId, method, passwordHash } = person;
  const tenant = tenantFor(ctx, { accountId, actor: userId });
  const at = now();
  // Passwords belong to no account.
  const sessionId = await db.platformTransaction(tenant, async (tx, audit) => {
    if (!(await maySignIn(tx, { accountId, userId, passwordHash }))) {
      throw wrongCredentials();
    }
    audit.record("auth/session");
    return openSession(tx, { accountId, userId, method, ip: tenant.ip, now: at });
  });
  const token = await jwt.sign({ userId, sessionId }, at);
  return { token, tokenType: "bearer", expiresIn: jwtSeconds };
}

/** The handlers of AuthService that are about the caller's own sessions. */
export function sessionHandlers(
  deps: SessionDeps,
): Pick<ServiceImpl<typeof AuthService>, "signOut" | "listSessions" | "revokeSession"> {
  const { db, trust, now } = deps;

  /** False when the person has no session of that id. */
  async function end(ctx: HandlerContext, id: string): Promise<boolean> {
    const tenant = personalTenant(ctx);
    const { accountId, actor: userId } = tenant;
    const epoch = await db.tenantTransaction(tenant, async (tx, audit) => {
      const row = await revokeSession(tx, { accountId, userId, id, now: now() });
      if (row === null) {
        audit.unchanged();
        return null;
      }
      audit.record(`session:${id}`);
      return trust.announce(tx, "session", [id]);
    });
    if (epoch !== null) {
      await trust.settled(epoch);
    }
    return epoch !== null;
  }

  return {
    async signOut(_req, ctx) {
      const { credentialId } = requireUser(ctx);
      if (!(await end(ctx, credentialId))) {
        const message = "Cannot sign out: the credential of the call is not a session";
        throw failedPrecondition("NOT_A_SESSION", message);
      }
      return { status: "success" };
    },

    async listSessions(_req, ctx) {
      const { homeAccountId: accountId, id: userId, credentialId } = requireUser(ctx);
      const rows = await db.tenantRead(accountId, (tx) =>
        listSessions(tx, { accountId, userId, now: now() }),
      );
      return { sessions: rows.map((row) => toSession(row, credentialId)) };
    },

    async revokeSession({ sessionId }, ctx) {
      if (!(await end(ctx, sessionId))) {
        throw notFound("the session");
      }
      return { status: "success" };
    },
  };
}
