import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import type { AuthService } from "../../gen/callora/accounts/v1/auth_service_pb.ts";
import { getLastAuditId } from "../audit/store.ts";
import type { Database } from "../db/database.ts";
import { callOf } from "../rpc/call.ts";
import { invalidArgument, permissionDenied } from "../rpc/errors.ts";
import { isAdminRole, requireUser, tenantFor, type UserPrincipal } from "../rpc/principal.ts";
import type { Lockout } from "./lockout.ts";
import type { PasswordHasher } from "./password.ts";
import { type SessionDeps, sessionHandlers, signIn } from "./sessions.ts";
import { toUser } from "./shown.ts";
import { checkPassword, wrongCredentials } from "./sign-in.ts";
import { findPerson, getUser } from "./store.ts";
import { tokenHandlers } from "./tokens.ts";
import { type WalletDeps, walletHandlers } from "./wallet-login.ts";

type Deps = SessionDeps & WalletDeps & { passwords: PasswordHasher; lockout: Lockout };

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
  {
    userId = "",
    username: name,
    password,
  }: { username: string; password: string; userId?: string },
) {
  const ip = callOf(ctx).exchange.clientIp;
  const user = await checkPassword(deps, { name, password, ip, now: deps.now() });
  if (user === null || (userId !== "" && userId !== user.id)) {
    throw wrongCredentials();
  }
  if (user.two_factor_enabled) {
    const message = "Cannot sign in by the password alone: this person has a second factor";
    throw permissionDenied("SECOND_FACTOR_REQUIRED", message);
  }
  const { account_id: accountId, id } = user;
  const passwordHash = user.password_hash ?? undefined;
  const person = { accountId, userId: id, method: "password", passwordHash } as const;
  return { user, ...(await signIn(deps, ctx, person)) };
}

/** Write down that the caller, or whom an admin names, has signed in elsewhere. Returns the record's id. */
async function noteSignIn(
  db: Database,
  ctx: HandlerContext,
  { by, userId }: { by: UserPrincipal; userId: string },
): Promise<number> {
  const isOwn = userId === "" || userId === by.id;
  const other =
    isOwn || !isAdminRole(by.role)
      ? null
      : await db.systemTransaction((tx) => findPerson(tx, userId));
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
