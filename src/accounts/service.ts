import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { Code, type ServiceImpl } from "@connectrpc/connect";
import type { AuthService } from "../../gen/callora/accounts/v1/auth_service_pb.ts";
import { PlatformRole, type UserService } from "../../gen/callora/accounts/v1/user_service_pb.ts";
import type { Database } from "../db/database.ts";
import { newId } from "../lib/id.ts";
import { callOf } from "../rpc/call.ts";
import { alreadyExists, permissionDenied, reasoned } from "../rpc/errors.ts";
import { type Role, requirePrincipal, requireTenant, roles, tenantFor } from "../rpc/principal.ts";
import type { Lockout } from "./lockout.ts";
import type { PasswordHasher } from "./password.ts";
import { mintSessionToken, sessionSeconds } from "./session.ts";
import { checkPassword } from "./sign-in.ts";
import { getUser, insertSession, type UserRow } from "./store.ts";
import { createUser } from "./users.ts";

interface Deps {
  db: Database;
  passwords: PasswordHasher;
  now: () => Date;
}

/** The handlers of proto/callora/accounts/v1/auth_service.proto. */
export function authService({
  db,
  passwords,
  lockout,
  now,
}: Deps & { lockout: Lockout }): ServiceImpl<typeof AuthService> {
  return {
    async passwordLogin(req, ctx) {
      const { username: name, password } = req;
      const ip = callOf(ctx).exchange.clientIp;
      const attempt = { name, password, ip, now: now() };
      const login = await checkPassword({ db, passwords, lockout }, attempt);
      if (login === null) {
        throw reasoned(Code.Unauthenticated, {
          reason: "CREDENTIALS_INVALID",
          message: "Cannot sign in: the username or the password is wrong",
        });
      }
      if (login.two_factor_enabled) {
        const message = "Cannot sign in by the password alone: this person has a second factor";
        throw permissionDenied("SECOND_FACTOR_REQUIRED", message);
      }
      const { token, hash } = mintSessionToken();
      const tenant = tenantFor(ctx, { accountId: login.account_id, actor: login.id });
      const expireAt = new Date(now().getTime() + sessionSeconds * 1000);
      await db.tenantTransaction(tenant, async (tx, audit) => {
        const { accountId } = tenant;
        const id = newId("ses", now());
        await insertSession(tx, { id, tokenHash: hash, accountId, userId: login.id, expireAt });
        audit.record("auth/session");
      });
      return { accessToken: token, tokenType: "bearer", expiresIn: sessionSeconds };
    },

    async getMe(_req, ctx) {
      const { accountId, id } = requirePrincipal(ctx);
      return { user: toUser(await db.tenantRead(accountId, (tx) => getUser(tx, accountId, id))) };
    },
  };
}

/** The handlers of proto/callora/accounts/v1/user_service.proto. */
export function userService({ db, passwords, now }: Deps): ServiceImpl<typeof UserService> {
  return {
    async createUser(req, ctx) {
      const principal = requirePrincipal(ctx);
      const role = roleOf[req.role] ?? "user";
      if (roles.indexOf(role) >= roles.indexOf("admin") && !isSuperAdmin(principal)) {
        throw permissionDenied("ROLE_DENIED", `Cannot create a ${role}: only a super admin may`);
      }
      const passwordHash = await passwords.hash(req.password);
      const { username, email } = req;
      const row = await db.platformTransaction(requireTenant(ctx), async (tx, audit) => {
        const user = await createUser(tx, { username, email, passwordHash, role }, now());
        if (user === null) {
          const message = "Cannot create the user: the name or the address is taken";
          throw alreadyExists("USERNAME_TAKEN", message);
        }
        audit.record(`user:${user.id}`);
        return user;
      });
      return { user: toUser(row) };
    },
  };
}

function isSuperAdmin(principal: ReturnType<typeof requirePrincipal>): boolean {
  return principal.kind === "user" && principal.role === "super_admin";
}

const roleOf: Readonly<Record<number, Role>> = {
  [PlatformRole.UNSPECIFIED]: "user",
  [PlatformRole.USER]: "user",
  [PlatformRole.DEVELOPER]: "developer",
  [PlatformRole.ADMIN]: "admin",
  [PlatformRole.SUPER_ADMIN]: "super_admin",
};

const platformRoleOf = {
  user: PlatformRole.USER,
  developer: PlatformRole.DEVELOPER,
  admin: PlatformRole.ADMIN,
  super_admin: PlatformRole.SUPER_ADMIN,
} satisfies Record<Role, PlatformRole>;

function toUser(row: UserRow) {
  return {
    id: row.id,
    createTime: timestampFromMs(row.created_at),
    username: row.username,
    email: row.email,
    role: platformRoleOf[row.role],
    accountId: row.account_id,
  };
}
