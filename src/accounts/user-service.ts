import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import {
  type CreateUserRequest,
  PlatformRole,
  type UserService,
} from "../../gen/callora/accounts/v1/user_service_pb.ts";
import type { Database } from "../db/database.ts";
import type { Tx } from "../db/pool.ts";
import type { Trust } from "../db/trust.ts";
import {
  alreadyExists,
  failedPrecondition,
  invalidArgument,
  notFound,
  permissionDenied,
} from "../rpc/errors.ts";
import { isAdminRole, type Role, requireTenant, requireUser } from "../rpc/principal.ts";
import { endCredentials } from "./ending.ts";
import { deleteSignInTokens } from "./login-store.ts";
import type { PasswordHasher } from "./password.ts";
import { manageProblem, type RoleProblem, roleChangeProblem } from "./role-rules.ts";
import { toAdminUser, toToken, toUser } from "./shown.ts";
import {
  claimEmail,
  claimUsername,
  countPeople,
  existsOtherSuperAdmin,
  findPerson,
  listPeople,
  lockAdmins,
  releaseEmail,
  releaseUsername,
  type UserChange,
  type UserRow,
  updateUser,
} from "./store.ts";
import { listTokens } from "./token-store.ts";
import { revokeTokenOf } from "./tokens.ts";
import { createUser } from "./users.ts";

interface Deps {
  db: Database;
  trust: Trust;
  passwords: PasswordHasher;
  now: () => Date;
}

const pageSizeDefault = 50;

/** The handlers of proto/callora/accounts/v1/user_service.proto. */
export function userService(deps: Deps): ServiceImpl<typeof UserService> {
  const { db, passwords, now } = deps;
  return {
    async listUsers(req) {
      const active = req.isActive ?? null;
      const limit = req.limit || pageSizeDefault;
      const { rows, total } = await db.systemTransaction(async (tx) => ({
        rows: await listPeople(tx, { active, offset: req.skip, limit }),
        total: await countPeople(tx, active),
      }));
      return { users: rows.map(toUser), total };
    },

    async createUser(req, ctx) {
      const role = roleAsked(req);
      const { id: callerId, role: callerRole } = requireUser(ctx);
      refuse(manageProblem(callerRole, role), `create a ${role}`);
      const passwordHash = await passwords.hash(req.password);
      const { username, email } = req;
      const row = await db.platformTransaction(requireTenant(ctx), async (tx, audit) => {
        await lockAdmins(tx);
        // The role may have been taken away while the password was hashed.
        refuse(manageProblem(currentRole(await getPerson(tx, callerId)), role), `create a ${role}`);
        const user = await createUser(tx, { username, email, passwordHash, role }, now());
        if (user === null) {
          throw nameTaken("create");
        }
        audit.record(`user:${user.id}`);
        const change = { ...noChange, ...ratesOf(req) };
        return updateUser(tx, { accountId: user.account_id, id: user.id, change, now: now() });
      });
      return { user: toUser(row) };
    },

    async getUser({ userId }) {
      return { user: toUser(await db.systemTransaction((tx) => getPerson(tx, userId))) };
    },

    async updateUser(req, ctx) {
      const { userId, username = null, email = null, isActive: active = null } = req;
      const asked = { username, email, active, ...ratesOf(req) };
      const user = await changeUser(deps, ctx, userId, (of) => ({
        ...asked,
        role: adminRole(of.role, req.isAdmin),
      }));
      return { user: toUser(user) };
    },

    async deactivateUser({ userId }, ctx) {
      await changeUser(deps, ctx, userId, () => ({ ...noChange, active: false }));
      return { status: "success", message: "User deactivated" };
    },

    async listUserTokens({ userId }) {
      const { rows, total } = await db.systemTransaction(async (tx) => {
        const { account_id: accountId } = await getPerson(tx, userId);
        return listTokens(tx, { accountId, userId, now: now() });
      });
      return { tokens: rows.map(toToken), total };
    },

    async revokeUserToken({ userId, tokenId }, ctx) {
      const person = await db.systemTransaction((tx) => getPerson(tx, userId));
      const { id, role } = requireUser(ctx);
      refuse(id === userId ? null : manageProblem(role, person.role), "revoke the token");
      const token = { accountId: person.account_id, userId, id: tokenId };
      await revokeTokenOf(deps, requireTenant(ctx), token);
      return { status: "success", message: "Token revoked" };
    },

    async adminListUsers(req) {
      const limit = req.limit || pageSizeDefault;
      const { offset } = req;
      const { rows, total } = await db.systemTransaction(async (tx) => ({
        rows: await listPeople(tx, { active: null, offset, limit }),
        total: await countPeople(tx, null),
      }));
      return { users: rows.map(toAdminUser), total, limit, offset };
    },

    async setUserRole({ userId, role }, ctx) {
      const to = role as Role;
      const user = await changeUser(deps, ctx, userId, () => ({ ...noChange, role: to }));
      return { status: "updated", userId, newRole: user.role };
    },
  };
}

const noChange: UserChange = {
  username: null,
  email: null,
  role: null,
  active: null,
  ratePerSecond: null,
  rateBurst: null,
};

/**
 * Change a person as far as the caller may, and wait until no process acts on what was before.
 *
 * One change at a time: the last super admin is counted, and the caller's own role read again, under the lock.
 */
async function changeUser(
  { db, trust, now }: Deps,
  ctx: HandlerContext,
  userId: string,
  changeOf: (of: UserRow) => UserChange,
): Promise<UserRow> {
  const callerId = requireUser(ctx).id;
  const { row, epoch } = await db.platformTransaction(requireTenant(ctx), async (tx, audit) => {
    await lockAdmins(tx);
    const [by, of] = [await getPerson(tx, callerId), await getPerson(tx, userId)];
    const change = changeOf(of);
    await checkChange(tx, { by, of, change });
    await claimChanged(tx, of, change);
    const person = { accountId: of.account_id, id: userId, change, now: now() };
    const user = await updateUser(tx, person);
    audit.record(`user:${userId}`, detailOf(of, user));
    // Announcements come last: from the first to the commit nobody else can announce.
    if (change.active === false) {
      // So that activating them brings none of it back.
      await endCredentials(tx, trust, { user, now: now() });
    }
    return { row: user, epoch: await trust.announce(tx, "user", [userId]) };
  });
  await trust.settled(epoch);
  return row;
}

/** Throws unless the caller may make the change, and the platform keeps somebody who runs it. */
async function checkChange(
  tx: Tx,
  { by, of, change }: { by: UserRow; of: UserRow; change: UserChange },
): Promise<void> {
  const isOwn = by.id === of.id;
  refuse(isOwn ? null : manageProblem(currentRole(by), of.role), "change the person");
  if (change.role !== null && change.role !== of.role) {
    refuse(roleChangeProblem({ by, of, to: change.role }), `make the person a ${change.role}`);
  }
  if (change.active === false && isOwn) {
    refuse("ROLE_OWN", "deactivate yourself");
  }
  const isStaying = (change.role ?? of.role) === "super_admin" && change.active !== false;
  if (of.role === "super_admin" && of.active && !isStaying) {
    if (!(await existsOtherSuperAdmin(tx, of.id))) {
      const message = "Cannot take the role from the person: nobody else could run the platform";
      throw failedPrecondition("LAST_ADMIN", message);
    }
  }
}

async function claimChanged(tx: Tx, of: UserRow, change: UserChange): Promise<void> {
  const owner = { accountId: of.account_id, userId: of.id };
  const { username, email } = change;
  if (username !== null && username.toLowerCase() !== of.username.toLowerCase()) {
    await releaseUsername(tx, of.username);
    if (!(await claimUsername(tx, { username, ...owner }))) {
      throw nameTaken("change");
    }
  }
  if (email !== null && email.toLowerCase() !== of.email.toLowerCase()) {
    await releaseEmail(tx, of.email);
    // Whoever reads the old address could still choose a password.
    await deleteSignInTokens(tx, of.id);
    if (!(await claimEmail(tx, { email, ...owner }))) {
      throw nameTaken("change");
    }
  }
}

function currentRole({ active, role }: UserRow): Role {
  return active ? role : "user";
}

async function getPerson(tx: Tx, userId: string): Promise<UserRow> {
  const row = await findPerson(tx, userId);
  if (row === null) {
    throw notFound("the person");
  }
  return row;
}

const explanations = {
  ROLE_OWN: "nobody does that to themselves",
  ROLE_DENIED: "only a super admin may",
} satisfies Record<RoleProblem, string>;

function refuse(problem: RoleProblem | null, what: string): void {
  if (problem !== null) {
    throw permissionDenied(problem, `Cannot ${what}: ${explanations[problem]}`);
  }
}

function nameTaken(verb: "create" | "change") {
  const message = `Cannot ${verb} the person: the name or the address is taken`;
  return alreadyExists("USERNAME_TAKEN", message);
}

/** What a change of roles and states was, for the audit log. */
function detailOf(before: UserRow, after: UserRow): string {
  const role = before.role === after.role ? [] : [`role ${before.role} to ${after.role}`];
  const active = before.active === after.active ? [] : [after.active ? "activated" : "deactivated"];
  return [...role, ...active].join(", ");
}

const roleOf: Readonly<Record<number, Role>> = {
  [PlatformRole.UNSPECIFIED]: "user",
  [PlatformRole.USER]: "user",
  [PlatformRole.DEVELOPER]: "developer",
  [PlatformRole.ADMIN]: "admin",
  [PlatformRole.SUPER_ADMIN]: "super_admin",
};

function roleAsked({ role, isAdmin: asAdmin }: Pick<CreateUserRequest, "role" | "isAdmin">): Role {
  if (!asAdmin) {
    return roleOf[role] ?? "user";
  }
  if (role !== PlatformRole.UNSPECIFIED && role !== PlatformRole.ADMIN) {
    throw invalidArgument([{ field: "is_admin", description: "contradicts the role" }]);
  }
  return "admin";
}

/** The role after `is_admin` was said. Null: it stays. */
function adminRole(role: Role, asked: boolean | undefined): Role | null {
  if (asked === undefined || asked === isAdminRole(role)) {
    return null;
  }
  return asked ? "admin" : "user";
}

function ratesOf(req: Pick<CreateUserRequest, "rateLimitPerSecond" | "rateLimitBurst">) {
  return { ratePerSecond: req.rateLimitPerSecond ?? null, rateBurst: req.rateLimitBurst ?? null };
}
