import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Queries, type Tx } from "../db/pool.ts";
import { type MemberRole, memberRoles } from "../rpc/principal.ts";

const invitationRow = z.object({
  account_id: z.string(),
  id: z.string(),
  email: z.string(),
  role: z.enum(memberRoles),
  created_at: z.number(),
  expire_at: z.number(),
});

/** An offer to become a member. */
export type InvitationRow = z.infer<typeof invitationRow>;

const invitationColumns = sql.fragment`
  invitations.account_id, invitations.id, invitations.email, invitations.role,
  invitations.created_at, invitations.expire_at
`;

const isOpen = sql.fragment`invitations.accepted_at is null and invitations.revoked_at is null`;

/** End the account's open invitation to an address, which may be past its time. Null: there is none. */
export function endInvitation(
  tx: Tx,
  { accountId, email, now }: { accountId: string; email: string; now: Date },
): Promise<InvitationRow | null> {
  return tx.maybeOne(sql.type(invitationRow)`
    update invitations set revoked_at = ${now.toISOString()}
    where account_id = ${accountId} and email = lower(${email}) and ${isOpen}
    returning ${invitationColumns}
  `);
}

/** Insert an invitation. Nobody can accept it before it has a token. */
export function insertInvitation(
  tx: Tx,
  invitation: {
    accountId: string;
    id: string;
    email: string;
    role: MemberRole;
    invitedBy: string;
    expireAt: Date;
  },
): Promise<InvitationRow> {
  const { accountId, id } = invitation;
  return tx.one(sql.type(invitationRow)`
    insert into invitations (account_id, id, email, role, invited_by, expire_at)
    values (
      ${accountId}, ${id}, lower(${invitation.email}), ${invitation.role},
      ${invitation.invitedBy}, ${invitation.expireAt.toISOString()}
    )
    returning ${invitationColumns}
  `);
}

/** Insert which invitation a token's hash is. */
export async function insertInvitationToken(
  tx: Tx,
  { accountId, id, tokenHash }: { accountId: string; id: string; tokenHash: Buffer },
): Promise<void> {
  await tx.query(sql.type(nothing)`
    insert into invitation_directory (token_hash, account_id, invitation_id)
    values (${sql.binary(tokenHash)}, ${accountId}, ${id})
  `);
}

/** Whether an invitation is open, and has no token: its mail was not sent. */
export async function awaitsMail(
  db: Queries,
  { accountId, id, now }: { accountId: string; id: string; now: Date },
): Promise<boolean> {
  const row = await db.maybeOne(sql.type(invitationRow.pick({ id: true }))`
    select id from invitations
    where account_id = ${accountId} and id = ${id} and ${isOpen}
      and expire_at > ${now.toISOString()}
      and not exists (
        select from invitation_directory as listed
        where listed.account_id = invitations.account_id and listed.invitation_id = invitations.id
      )
  `);
  return row !== null;
}

/** The open invitations that are listed. */
export const invitationsMax = 100;

/** List the account's open invitations, newest first. */
export function listInvitations(
  db: Queries,
  { accountId, now }: { accountId: string; now: Date },
): Promise<readonly InvitationRow[]> {
  return db.any(sql.type(invitationRow)`
    select ${invitationColumns} from invitations
    where account_id = ${accountId} and ${isOpen} and expire_at > ${now.toISOString()}
    order by id desc limit ${invitationsMax}
  `);
}

/** Find one of the account's invitations. */
export function findInvitation(
  db: Queries,
  accountId: string,
  id: string,
): Promise<InvitationRow | null> {
  return db.maybeOne(sql.type(invitationRow)`
    select ${invitationColumns} from invitations
    where account_id = ${accountId} and id = ${id}
  `);
}

/** Take one of the account's invitations back, if it is open. */
export async function revokeInvitation(
  tx: Tx,
  { accountId, id, now }: { accountId: string; id: string; now: Date },
): Promise<void> {
  await tx.query(sql.type(nothing)`
    update invitations set revoked_at = ${now.toISOString()}
    where account_id = ${accountId} and id = ${id} and ${isOpen}
  `);
}

/** Find whose invitation a token's hash is. For all accounts. */
export function findInvitationByHash(
  db: Queries,
  tokenHash: Buffer,
): Promise<InvitationRow | null> {
  return db.maybeOne(sql.type(invitationRow)`
    select ${invitationColumns} from invitation_directory
    join invitations on invitations.account_id = invitation_directory.account_id
      and invitations.id = invitation_directory.invitation_id
    where invitation_directory.token_hash = ${sql.binary(tokenHash)}
  `);
}

/** Use up an invitation. Null when it is not open any more. */
export function acceptInvitation(
  tx: Tx,
  { accountId, id, now }: { accountId: string; id: string; now: Date },
): Promise<InvitationRow | null> {
  return tx.maybeOne(sql.type(invitationRow)`
    update invitations set accepted_at = ${now.toISOString()}
    where account_id = ${accountId} and id = ${id} and ${isOpen}
      and expire_at > ${now.toISOString()}
    returning ${invitationColumns}
  `);
}
