import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, type HandlerContext, type ServiceImpl } from "@connectrpc/connect";
import {
  type AccountService,
  type CreateInvitationRequest,
  CreateInvitationResponseSchema,
} from "../../gen/callora/accounts/v1/account_service_pb.ts";
import type { Database, Tenant } from "../db/database.ts";
import { once } from "../db/once.ts";
import type { Tx } from "../db/pool.ts";
import type { Trust } from "../db/trust.ts";
import { newId } from "../lib/id.ts";
import { failedPrecondition, notFound, reasoned } from "../rpc/errors.ts";
import { type MemberRole, requireTenant, requireUser, tenantFor } from "../rpc/principal.ts";
import { retryOf } from "../rpc/retry.ts";
import {
  acceptInvitation,
  awaitsMail,
  endInvitation,
  findInvitation,
  findInvitationByHash,
  type InvitationRow,
  insertInvitation,
  insertInvitationToken,
  invitationsMax,
  listInvitations,
  revokeInvitation,
} from "./invitation-store.ts";
import type { Mailer } from "./mail.ts";
import { refuse, requireManager, shownRoleOf, toAccount, toRole } from "./member-shown.ts";
import {
  accountsMax,
  findMemberRole,
  getAccount,
  insertMember,
  listAccounts,
  lockAccount,
} from "./member-store.ts";
import { grantProblem } from "./role-rules.ts";
import { mintToken, tokenHash } from "./token.ts";

interface InvitationDeps {
  db: Database;
  trust: Trust;
  mail: Mailer;
  now: () => Date;
}

const invitationMs = 7 * 24 * 60 * 60 * 1000;

/** The handlers of AccountService for invitations. */
export function invitationHandlers(
  deps: InvitationDeps,
): Pick<
  ServiceImpl<typeof AccountService>,
  "createInvitation" | "listInvitations" | "revokeInvitation" | "acceptInvitation"
> {
  const { db, now } = deps;
  const mailInvitation = createInvitationMails(deps);
  return {
    createInvitation: (req, ctx) => createInvitation({ ...deps, mailInvitation }, ctx, req),
    acceptInvitation: (req, ctx) => acceptInvitationOf(deps, ctx, req),

    async listInvitations(_req, ctx) {
      const { accountId, memberRole } = requireUser(ctx);
      requireManager(memberRole);
      const rows = await db.tenantRead(accountId, (tx) =>
        listInvitations(tx, { accountId, now: now() }),
      );
      return { invitations: rows.map(toInvitation) };
    },

    async revokeInvitation({ invitationId: id }, ctx) {
      const tenant = requireTenant(ctx);
      const { accountId, actor } = tenant;
      await db.tenantTransaction(tenant, async (tx, audit) => {
        const by = (await findMemberRole(tx, accountId, actor)) ?? "viewer";
        requireManager(by);
        const row = await findInvitation(tx, accountId, id);
        if (row === null) {
          throw notFound("the invitation");
        }
        refuse(grantProblem(by, row.role), "take the invitation back");
        await revokeInvitation(tx, { accountId, id, now: now() });
        audit.record(`invitation:${id}`);
      });
      return {};
    },
  };
}

/** Invite somebody, in place of an older invitation, and send the mail once that is durable. */
async function createInvitation(
  deps: InvitationDeps & { mailInvitation: MailInvitation },
  ctx: HandlerContext,
  req: CreateInvitationRequest,
) {
  const { db, now } = deps;
  const tenant = requireTenant(ctx);
  const { accountId, actor } = tenant;
  const retry = retryOf(ctx);
  const role = toRole(req.role);
  let isNew = false;
  const answer = await db.tenantTransaction(tenant, async (tx, audit) => {
    isNew = false;
    const scope = { accountId, retry, response: CreateInvitationResponseSchema, audit };
    return once(tx, scope, async () => {
      await lockAccount(tx, accountId);
      const account = await getAccount(tx, accountId, actor);
      refuse(grantProblem(account.role, role), `invite a ${role}`);
      const { email } = req;
      const ended = await endInvitation(tx, { accountId, email, now: now() });
      if (ended !== null && ended.expire_at > now().getTime()) {
        refuse(grantProblem(account.role, ended.role), "take the invitation back");
      }
      await refuseTooMany(tx, accountId, now());
      const id = newId("inv", now());
      const expireAt = new Date(now().getTime() + invitationMs);
      const offer = { accountId, id, email, role, invitedBy: actor, expireAt };
      const row = await insertInvitation(tx, offer);
      audit.record(`invitation:${id}`);
      isNew = true;
      return { invitation: toInvitation(row) };
    });
  });
  const id = answer.invitation?.id ?? "";
  await deps.mailInvitation(tenant, { id, to: req.email, role, isNew });
  return answer;
}

type MailInvitation = (tenant: Tenant, invitation: Mailed) => Promise<void>;

interface Mailed {
  id: string;
  to: string;
  role: MemberRole;
  /** Whether the call made it. If not, it may have been mailed already. */
  isNew: boolean;
}

/**
 * Sends the mail of an invitation with a new token, and then lets that be accepted: what has no token was not mailed, and
 * the next call with the same key sends it. Calls of the same moment are one mail.
 *
 * Throws UNAVAILABLE with reason MAIL_UNAVAILABLE when the mail cannot be sent.
 */
function createInvitationMails({ db, mail, now }: InvitationDeps): MailInvitation {
  const underWay = new Map<string, Promise<void>>();

  async function send(tenant: Tenant, { id, to, role, isNew }: Mailed): Promise<void> {
    const { accountId, actor } = tenant;
    const isDue = (tx: Tx) => awaitsMail(tx, { accountId, id, now: now() });
    if (!isNew && !(await db.tenantRead(accountId, isDue))) {
      return;
    }
    const { token, hash } = mintToken("civ");
    const { name } = await db.tenantRead(accountId, (tx) => getAccount(tx, accountId, actor));
    await mail
      .send(invitationMail({ to, accountName: name, role, token }))
      .catch((cause: unknown) => {
        throw cause instanceof ConnectError ? cause : mailUnavailable(cause);
      });
    await db.tenantTransaction(tenant, async (tx, audit) => {
      await insertInvitationToken(tx, { accountId, id, tokenHash: hash });
      // The invitation itself is in the log.
      audit.unchanged();
    });
  }

  return (tenant, invitation) => {
    const { id } = invitation;
    const sending = underWay.get(id) ?? send(tenant, invitation).finally(() => underWay.delete(id));
    underWay.set(id, sending);
    return sending;
  };
}

function mailUnavailable(cause: unknown): ConnectError {
  const message = "Cannot mail the invitation: try again with the same key";
  const reason = "MAIL_UNAVAILABLE";
  return reasoned(Code.Unavailable, { reason, message, retryAfterMs: 1000, cause });
}

/** Use an invitation up, and become a member. */
async function acceptInvitationOf(
  { db, trust, now }: InvitationDeps,
  ctx: HandlerContext,
  { token }: { token: string },
) {
  const { id: userId } = requireUser(ctx);
  const hash = tokenHash("civ", token);
  const found =
    hash === null ? null : await db.systemTransaction((tx) => findInvitationByHash(tx, hash));
  if (found === null) {
    throw notFound("the invitation");
  }
  const { account_id: accountId } = found;
  const tenant = tenantFor(ctx, { accountId, actor: userId });
  const epoch = await db.platformTransaction(tenant, async (tx, audit) => {
    if ((await listAccounts(tx, userId)).length >= accountsMax) {
      const message = `Cannot become a member: a person has at most ${accountsMax} accounts`;
      throw failedPrecondition("ACCOUNTS_MAX", message);
    }
    const invitation = { accountId, id: found.id, now: now() };
    if ((await acceptInvitation(tx, invitation)) === null) {
      throw notFound("the invitation");
    }
    await insertMember(tx, { accountId, userId, role: found.role });
    audit.record(`invitation:${found.id}`);
    return trust.announce(tx, "user", [userId]);
  });
  await trust.settled(epoch);
  const row = await db.tenantRead(accountId, (tx) => getAccount(tx, accountId, userId));
  return { account: toAccount(row) };
}

async function refuseTooMany(tx: Tx, accountId: string, now: Date): Promise<void> {
  if ((await listInvitations(tx, { accountId, now })).length >= invitationsMax) {
    const message = `Cannot invite: the account has ${invitationsMax} open invitations, the most`;
    throw failedPrecondition("INVITATIONS_MAX", message);
  }
}

function invitationMail(offer: {
  to: string;
  accountName: string;
  role: MemberRole;
  token: string;
}) {
  const { to, accountName, role, token } = offer;
  const lines = [
    `You are invited to the account "${accountName}" as ${role}.`,
    "",
    "Sign in, and accept with this token within seven days:",
    "",
    token,
    "",
    "Whoever has it can accept. If you do not expect it, delete this mail.",
  ];
  return { to, subject: "You are invited to an account", text: lines.join("\n") };
}

function toInvitation(row: InvitationRow) {
  return {
    id: row.id,
    email: row.email,
    role: shownRoleOf[row.role],
    createTime: timestampFromMs(row.created_at),
    expireTime: timestampFromMs(row.expire_at),
  };
}
