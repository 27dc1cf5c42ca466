import type { ServiceImpl } from "@connectrpc/connect";
import type { AccountService } from "../../gen/callora/accounts/v1/account_service_pb.ts";
import type { Database } from "../db/database.ts";
import type { Tx } from "../db/pool.ts";
import type { Trust } from "../db/trust.ts";
import { splitPage } from "../lib/page-token.ts";
import { failedPrecondition, notFound } from "../rpc/errors.ts";
import { pageOf } from "../rpc/page.ts";
import { type MemberRole as Role, requireTenant, requireUser } from "../rpc/principal.ts";
import { invitationHandlers } from "./invitations.ts";
import type { Mailer } from "./mail.ts";
import { refuse, requireManager, toAccount, toMember, toRole } from "./member-shown.ts";
import {
  existsOtherOwner,
  findMember,
  findMemberRole,
  getAccount,
  isHomeOf,
  listAccounts,
  listMembers,
  lockAccount,
  removeMember,
  updateAccount,
  updateMemberRole,
} from "./member-store.ts";
import { grantProblem, memberChangeProblem } from "./role-rules.ts";

interface Deps {
  db: Database;
  trust: Trust;
  mail: Mailer;
  now: () => Date;
}

/** The handlers of proto/callora/accounts/v1/account_service.proto. */
export function accountService(deps: Deps): ServiceImpl<typeof AccountService> {
  const { db } = deps;
  return {
    ...memberHandlers(deps),
    ...invitationHandlers(deps),

    async listAccounts(_req, ctx) {
      const { id } = requireUser(ctx);
      const rows = await db.systemTransaction((tx) => listAccounts(tx, id));
      return { accounts: rows.map(toAccount) };
    },

    async getAccount(_req, ctx) {
      const { accountId, id } = requireUser(ctx);
      const row = await db.tenantRead(accountId, (tx) => getAccount(tx, accountId, id));
      return { account: toAccount(row) };
    },

    async updateAccount({ name }, ctx) {
      const { accountId, actor } = requireTenant(ctx);
      const row = await db.tenantTransaction(requireTenant(ctx), async (tx, audit) => {
        requireManager((await findMemberRole(tx, accountId, actor)) ?? "viewer");
        await updateAccount(tx, accountId, name);
        audit.record(`account:${accountId}`);
        return getAccount(tx, accountId, actor);
      });
      return { account: toAccount(row) };
    },
  };
}

type Handlers<Name extends keyof ServiceImpl<typeof AccountService>> = Pick<
  ServiceImpl<typeof AccountService>,
  Name
>;

function memberHandlers({
  db,
  trust,
  now,
}: Deps): Handlers<"listMembers" | "setMemberRole" | "removeMember"> {
  return {
    async listMembers(req, ctx) {
      const { accountId } = requireUser(ctx);
      const { size, after } = pageOf(req);
      const rows = await db.systemTransaction((tx) =>
        listMembers(tx, { accountId, after, limit: size + 1 }),
      );
      const { page, nextPageToken } = splitPage(rows, { size, id: (row) => row.user_id });
      return { members: page.map(toMember), nextPageToken };
    },

    async setMemberRole(req, ctx) {
      const tenant = requireTenant(ctx);
      const { accountId, actor } = tenant;
      const { userId } = req;
      const to = toRole(req.role);
      const epoch = await db.platformTransaction(tenant, async (tx, audit) => {
        const { by, of } = await lockMembers(tx, { accountId, actor, userId });
        const change = { by: { id: actor, role: by }, of: { id: userId, role: of }, to };
        refuse(memberChangeProblem(change), `make the member ${to}`);
        await keepOwner(tx, { accountId, userId, of, to });
        await updateMemberRole(tx, { accountId, userId, role: to });
        audit.record(`member:${userId}`, `${of} to ${to}`);
        return trust.announce(tx, "user", [userId]);
      });
      await trust.settled(epoch);
      const row = await db.systemTransaction((tx) => findMember(tx, accountId, userId));
      return row === null ? {} : { member: toMember(row) };
    },

    async removeMember({ userId }, ctx) {
      const { homeAccountId } = requireUser(ctx);
      const tenant = requireTenant(ctx);
      const { accountId, actor } = tenant;
      if (userId === actor && accountId === homeAccountId) {
        throw homeAccount();
      }
      const epoch = await db.platformTransaction(tenant, async (tx, audit) => {
        const { by, of } = await lockMembers(tx, { accountId, actor, userId });
        refuse(userId === actor ? null : grantProblem(by, of), "remove the member");
        await keepOwner(tx, { accountId, userId, of, to: null });
        if (await isHomeOf(tx, accountId, userId)) {
          throw homeAccount();
        }
        await removeMember(tx, { accountId, userId, now: now() });
        audit.record(`member:${userId}`, of);
        return trust.announce(tx, "user", [userId]);
      });
      await trust.settled(epoch);
      return {};
    },
  };
}

/** Lock who is a member, and read what the two are now. Throws NOT_FOUND for whoever is none. */
async function lockMembers(
  tx: Tx,
  { accountId, actor, userId }: { accountId: string; actor: string; userId: string },
): Promise<{ by: Role; of: Role }> {
  await lockAccount(tx, accountId);
  const by = await findMemberRole(tx, accountId, actor);
  const of = await findMemberRole(tx, accountId, userId);
  if (by === null || of === null) {
    throw notFound("the member");
  }
  return { by, of };
}

/**
 * Throws when the account would be left without an owner who may sign in. Under the lock of the account, and for all
 * accounts: whether somebody may sign in is in an account of their own.
 */
async function keepOwner(
  tx: Tx,
  change: { accountId: string; userId: string; of: Role; to: Role | null },
): Promise<void> {
  const { accountId, userId, of, to } = change;
  const isLosing = of === "owner" && to !== "owner";
  if (isLosing && !(await existsOtherOwner(tx, accountId, userId))) {
    const message = "Cannot take the member's role: the account would have no owner";
    throw failedPrecondition("LAST_OWNER", message);
  }
}

function homeAccount() {
  const message = "Cannot remove the member: it is their own account";
  return failedPrecondition("HOME_ACCOUNT", message);
}
