import {
  Code,
  type ConnectError,
  type HandlerContext,
  type ServiceImpl,
} from "@connectrpc/connect";
import type { AuthService } from "../../gen/callora/accounts/v1/auth_service_pb.ts";
import { getLastAuditId } from "../audit/store.ts";
import type { Database } from "../db/database.ts";
import { callOf } from "../rpc/call.ts";
import { invalidArgument, reasoned } from "../rpc/errors.ts";
import { requireUser, tenantFor, type UserPrincipal } from "../rpc/principal.ts";
import type { PasswordHasher } from "./password.ts";
import { isAdmin } from "./role-rules.ts";
import { type SessionDeps, sessionHandlers, signIn } from "./sessions.ts";
import { toUser } from "./shown.ts";
import { findLogin, findPerson, getUser, type UserRow } from "./store.ts";
import { tokenHandlers } from "./tokens.ts";
import { type WalletDeps, walletHandlers } from "./wallet-login.ts";

type Deps = SessionDeps & WalletDeps & { passwords: PasswordHasher };

/** The handlers of proto/callora/accounts/v1/auth_service.proto. */
export function authService(deps: Deps): ServiceImpl<typeof AuthService> {
  const { db } = deps;
  return {
    ...sessionHandlers(deps),
    ...tokenHandlers(deps),
    ...walletHandlers(deps),

    async passwordLogin(req, ctx) {
      const { token, ...rest } = await passwordSignIn(deps, ctx, req);
      return { accessToken: token, ...rest };
    },

    async login(req, ctx) {
      const { principal } = callOf(ctx);
      if (req.username !== "") {
        const { token, user, ...rest } = await passwordSignIn(deps, ctx, req);
        const auditLogId = await lastSignIn(db, user.account_id, user.id);
        return { ok: true, auditLogId, accessToken: token, ...rest };
      }
      if (principal?.kind !== "user") {
        const description = "must be set, unless the call carries a person's credential";
        throw invalidArgument([{ field: "username", description }]);
      }
      return {
        ok: true,
        auditLogId: await noteSignIn(db, ctx, { by: principal, userId: req.userId }),
      };
    },

    async getMe(_req, ctx) {
      const { homeAccountId, id } = requireUser(ctx);
      return {
        user: toUser(await db.tenantRead(homeAccountId, (tx) => getUser(tx, homeAccountId, id))),
      };
    },
  };
}

/** Sign in whoever the name and the password are. A `userId` that is not theirs is as wrong as a password. */
async function passwordSignIn(
  deps: Deps,
  ctx: HandlerContext,
  { userId = "", ...given }: { username: string; password: string; userId?: string },
) {
  const user = await checkPassword(deps, given);
  if (user === null || !user.active || (userId !== "" && userId !== user.id)) {
    throw wrongCredentials();
  }
  const { account_id: accountId, id } = user;
  return { user, ...(await signIn(deps, ctx, { accountId, userId: id, method: "password" })) };
}

/** Whose name and password these are. Null, after the same work, for an unknown name and a wrong password. */
async function checkPassword(
  { db, passwords }: Pick<Deps, "db" | "passwords">,
  { username, password }: { username: string; password: string },
): Promise<UserRow | null> {
  const login = await db.systemTransaction((tx) => findLogin(tx, username));
  const known = await passwords.verify(password, login?.password_hash || undefined);
  return known ? login : null;
}

function wrongCredentials(): ConnectError {
  return reasoned(Code.Unauthenticated, {
    reason: "CREDENTIALS_INVALID",
    message: "Cannot sign in: the username or the password is wrong",
  });
}

/** Write down that the caller, or whom an admin names, has signed in elsewhere. Returns the record's id. */
async function noteSignIn(
  db: Database,
  ctx: HandlerContext,
  { by, userId }: { by: UserPrincipal; userId: string },
): Promise<number> {
  const isOwn = userId === "" || userId === by.id;
  const other =
    isOwn || !isAdmin(by.role) ? null : await db.systemTransaction((tx) => findPerson(tx, userId));
  if (!isOwn && other === null) {
    throw wrongCredentials();
  }
  const accountId = other?.account_id ?? by.homeAccountId;
  await db.tenantTransaction(tenantFor(ctx, { accountId, actor: by.id }), async (_tx, audit) => {
    audit.record("auth/session", isOwn ? "" : `for ${userId}`);
  });
  return lastSignIn(db, accountId, by.id);
}

async function lastSignIn(db: Database, accountId: string, actor: string): Promise<number> {
  const action = "user.login";
  return Number(
    await db.tenantRead(accountId, (tx) => getLastAuditId(tx, { accountId, actor, action })),
  );
}
