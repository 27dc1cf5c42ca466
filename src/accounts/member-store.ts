import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Queries, type Tx } from "../db/pool.ts";
import { type MemberRole, memberRoles } from "../rpc/principal.ts";

const accountRow = z.object({
  account_id: z.string(),
  name: z.string(),
  created_at: z.number(),
  role: z.enum(memberRoles),
});

/** An account, and what one of its members may do in it. */
export type AccountRow = z.infer<typeof accountRow>;

/** The accounts that a person can be a member of. */
export const accountsMax = 100;

/** List the accounts that a person is a member of, their own first. For all accounts. */
export function listAccounts(db: Queries, userId: string): Promise<readonly AccountRow[]> {
  return db.any(sql.type(accountRow)`
    select accounts.account_id, accounts.name, accounts.created_at, members.role
    from member_directory
    join members on members.account_id = member_directory.account_id
      and members.user_id = member_directory.user_id
    join accounts on accounts.account_id = member_directory.account_id
    left join person_directory on person_directory.user_id = member_directory.user_id
      and person_directory.account_id = member_directory.account_id
    where member_directory.user_id = ${userId} and members.removed_at is null
    order by person_directory.user_id is null, accounts.account_id limit ${accountsMax}
  `);
}

/** Get an account with the role of one of its members. Throws NotFoundError without one. */
export function getAccount(db: Queries, accountId: string, userId: string): Promise<AccountRow> {
  return db.one(sql.type(accountRow)`
    select accounts.account_id, accounts.name, accounts.created_at, members.role
    from accounts
    join members on members.account_id = accounts.account_id
    where accounts.account_id = ${accountId} and members.user_id = ${userId}
      and members.removed_at is null
  `);
}

/** Give an account another name. */
export async function updateAccount(tx: Tx, accountId: string, name: string): Promise<void> {
  await tx.query(sql.type(nothing)`
    update accounts set name = ${name} where account_id = ${accountId}
  `);
}

/** Lock an account, so that who is a member changes once at a time. */
export async function lockAccount(tx: Tx, accountId: string): Promise<void> {
  await tx.query(sql.type(nothing)`
    select from accounts where account_id = ${accountId} for update
  `);
}

const memberRow = z.object({
  user_id: z.string(),
  username: z.string(),
  email: z.string(),
  role: z.enum(memberRoles),
  created_at: z.number(),
});

/** A member, and who that is. */
export type MemberRow = z.infer<typeof memberRow>;

/**
 * List an account's members after the given id, in the order of their ids. Acts for all accounts: people's names are
 * in accounts of their own.
 */
export function listMembers(
  db: Queries,
  { accountId, after, limit }: { accountId: string; after: string; limit: number },
): Promise<readonly MemberRow[]> {
  return db.any(sql.type(memberRow)`
    select members.user_id, users.username, users.email, members.role, members.created_at
    from members
    join person_directory on person_directory.user_id = members.user_id
    join users on users.account_id = person_directory.account_id and users.id = members.user_id
    where members.account_id = ${accountId} and members.removed_at is null
      and members.user_id > ${after}
    order by members.user_id limit ${limit}
  `);
}

/** Find one member, and who that is. Acts for all accounts. */
export function findMember(
  db: Queries,
  accountId: string,
  userId: string,
): Promise<MemberRow | null> {
  return db.maybeOne(sql.type(memberRow)`
    select members.user_id, users.username, users.email, members.role, members.created_at
    from members
    join person_directory on person_directory.user_id = members.user_id
    join users on users.account_id = person_directory.account_id and users.id = members.user_id
    where members.account_id = ${accountId} and members.user_id = ${userId}
      and members.removed_at is null
  `);
}

/** Find what somebody may do in an account. Null: nothing. */
export async function findMemberRole(
  db: Queries,
  accountId: string,
  userId: string,
): Promise<MemberRole | null> {
  const row = await db.maybeOne(sql.type(z.object({ role: z.enum(memberRoles) }))`
    select role from members
    where account_id = ${accountId} and user_id = ${userId} and removed_at is null
  `);
  return row?.role ?? null;
}

/** Whether the account has an owner besides somebody who may sign in. Acts for all accounts. */
export async function existsOtherOwner(
  db: Queries,
  accountId: string,
  userId: string,
): Promise<boolean> {
  const row = await db.maybeOne(sql.type(z.object({ user_id: z.string() }))`
    select members.user_id
    from members
    join person_directory on person_directory.user_id = members.user_id
    join users on users.account_id = person_directory.account_id and users.id = members.user_id
    where members.account_id = ${accountId} and members.user_id <> ${userId}
      and members.role = 'owner' and members.removed_at is null and users.active
    limit 1
  `);
  return row !== null;
}

/** Make somebody a member. Whoever is one already stays what they are. Returns what they may do. */
export async function insertMember(
  tx: Tx,
  { accountId, userId, role }: { accountId: string; userId: string; role: MemberRole },
): Promise<MemberRole> {
  const row = await tx.one(sql.type(z.object({ role: z.enum(memberRoles) }))`
    with listed as (
      insert into member_directory (user_id, account_id) values (${userId}, ${accountId})
      on conflict do nothing
    )
    insert into members (account_id, user_id, role) values (${accountId}, ${userId}, ${role})
    on conflict (account_id, user_id) do update set
      role = case when members.removed_at is null then members.role else excluded.role end,
      removed_at = null
    returning role
  `);
  return row.role;
}

/** Whether an account is a person's own. */
export async function isHomeOf(db: Queries, accountId: string, userId: string): Promise<boolean> {
  const row = await db.maybeOne(sql.type(z.object({ user_id: z.string() }))`
    select user_id from person_directory
    where user_id = ${userId} and account_id = ${accountId}
  `);
  return row !== null;
}

/** Give a member another role. */
export async function updateMemberRole(
  tx: Tx,
  { accountId, userId, role }: { accountId: string; userId: string; role: MemberRole },
): Promise<void> {
  await tx.query(sql.type(nothing)`
    update members set role = ${role} where account_id = ${accountId} and user_id = ${userId}
  `);
}

/** End a membership. */
export async function removeMember(
  tx: Tx,
  { accountId, userId, now }: { accountId: string; userId: string; now: Date },
): Promise<void> {
  await tx.query(sql.type(nothing)`
    update members set removed_at = ${now.toISOString()}
    where account_id = ${accountId} and user_id = ${userId}
  `);
}

const membershipRow = z.object({
  user_id: z.string(),
  account_id: z.string(),
  role: z.enum(memberRoles),
});

/** List the memberships of people. For all accounts. */
export function listMemberships(
  db: Queries,
  userIds: readonly string[],
): Promise<readonly z.infer<typeof membershipRow>[]> {
  return db.any(sql.type(membershipRow)`
    select members.user_id, members.account_id, members.role
    from member_directory
    join members on members.account_id = member_directory.account_id
      and members.user_id = member_directory.user_id
    where member_directory.user_id = any(${sql.array([...userIds], "text")})
      and members.removed_at is null
  `);
}
