import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Queries, type Tx } from "../db/pool.ts";

/** A row of a person. */
export const userRow = z.object({
  account_id: z.string(),
  id: z.string(),
  username: z.string(),
  email: z.string(),
  role: z.enum(["user", "developer", "admin", "super_admin"]),
  active: z.boolean(),
  rate_limit_per_second: z.number().nullable(),
  rate_limit_burst: z.number().nullable(),
  created_at: z.number(),
  updated_at: z.number(),
});

/** A person. */
export type UserRow = z.infer<typeof userRow>;

/** Its columns. */
export const userColumns = sql.fragment`
  users.account_id, users.id, users.username, users.email, users.role, users.active,
  users.rate_limit_per_second, users.rate_limit_burst, users.created_at, users.updated_at
`;

/** Get one of the account's people. Throws NotFoundError if it has none of that id. */
export function getUser(db: Queries, accountId: string, userId: string): Promise<UserRow> {
  return db.one(sql.type(userRow)`
    select ${userColumns} from users where account_id = ${accountId} and id = ${userId}
  `);
}

/** Whether anybody may run the platform. */
export async function existsSuperAdmin(db: Queries): Promise<boolean> {
  const row = await db.maybeOne(sql.type(z.object({ id: z.string() }))`
    select id from users where role = 'super_admin' and active limit 1
  `);
  return row !== null;
}

/** Insert an account. */
export async function insertAccount(
  tx: Tx,
  account: { accountId: string; name: string },
): Promise<void> {
  await tx.query(sql.type(nothing)`
    insert into accounts (account_id, name) values (${account.accountId}, ${account.name})
  `);
}

/** Claim a name, and an address if there is one, for a person. False when one of them is taken. */
export async function claimNames(
  tx: Tx,
  claim: { username: string; email: string; accountId: string; userId: string },
): Promise<boolean> {
  const claimed = await tx.any(sql.type(z.object({ user_id: z.string() }))`
    with named as (
      insert into user_directory (username, account_id, user_id)
      values (lower(${claim.username}), ${claim.accountId}, ${claim.userId})
      on conflict do nothing returning user_id
    ), addressed as (
      insert into email_directory (email, account_id, user_id)
      select lower(${claim.email}), ${claim.accountId}, ${claim.userId} where ${claim.email} <> ''
      on conflict do nothing returning user_id
    )
    select user_id from named union all select user_id from addressed
  `);
  return claimed.length === (claim.email === "" ? 1 : 2);
}

/** A person who is to be inserted. */
export interface NewUserRow {
  accountId: string;
  id: string;
  username: string;
  email: string;
  emailVerified: boolean;
  name: string;
  image: string | null;
  role: UserRow["role"];
}

/** Insert a person. */
export function insertUser(tx: Tx, user: NewUserRow): Promise<UserRow> {
  return tx.one(sql.type(userRow)`
    insert into users (account_id, id, username, email, email_verified, name, image, role)
    values (
      ${user.accountId}, ${user.id}, ${user.username}, ${user.email}, ${user.emailVerified},
      ${user.name}, ${user.image}, ${user.role}
    )
    returning ${userColumns}
  `);
}

/** Those of the ids that are accounts. */
export async function existingAccounts(db: Queries, accountIds: string[]): Promise<Set<string>> {
  const rows = await db.any(sql.type(z.object({ account_id: z.string() }))`
    select account_id from accounts where account_id = any(${sql.array(accountIds, "text")})
  `);
  return new Set(rows.map((row) => row.account_id));
}

/** Say in which account a new person's own row is. */
export async function insertPerson(tx: Tx, userId: string, accountId: string): Promise<void> {
  await tx.query(sql.type(nothing)`
    insert into person_directory (user_id, account_id) values (${userId}, ${accountId})
  `);
}

/** List the people of the ids. For all accounts. */
export function listPeopleById(
  db: Queries,
  userIds: readonly string[],
): Promise<readonly UserRow[]> {
  return db.any(sql.type(userRow)`
    select ${userColumns} from person_directory
    join users on users.account_id = person_directory.account_id
      and users.id = person_directory.user_id
    where person_directory.user_id = any(${sql.array([...userIds], "text")})
  `);
}

/** Find a person by their id alone. For all accounts. */
export async function findPerson(db: Queries, userId: string): Promise<UserRow | null> {
  return (await listPeopleById(db, [userId]))[0] ?? null;
}

/**
 * Let nobody deactivate a person, or end what they call with, before the transaction ends. False when they may not
 * sign in.
 */
export async function holdPerson(
  tx: Tx,
  { accountId, userId }: { accountId: string; userId: string },
): Promise<boolean> {
  const row = await tx.maybeOne(sql.type(z.object({ active: z.boolean() }))`
    select active from users where account_id = ${accountId} and id = ${userId} for share
  `);
  return row?.active ?? false;
}

/** Let one transaction at a time end what a person calls with, after all that hold the person. */
export async function lockPerson(
  tx: Tx,
  { accountId, userId }: { accountId: string; userId: string },
): Promise<void> {
  await tx.query(sql.type(nothing)`
    select from users where account_id = ${accountId} and id = ${userId} for update
  `);
}

/** List people, newest first. A null `active` means all. For all accounts. */
export function listPeople(
  db: Queries,
  { active, offset, limit }: { active: boolean | null; offset: number; limit: number },
): Promise<readonly UserRow[]> {
  return db.any(sql.type(userRow)`
    select ${userColumns} from users
    where ${active}::boolean is null or active = ${active}
    order by id desc limit ${limit} offset ${offset}
  `);
}

/** Count people. A null `active` means all. For all accounts. */
export async function countPeople(db: Queries, active: boolean | null): Promise<number> {
  const { count } = await db.one(sql.type(z.object({ count: z.number() }))`
    select count(*)::int as count from users
    where ${active}::boolean is null or active = ${active}
  `);
  return count;
}

/** Let one transaction at a time change who runs the platform. */
export async function lockAdmins(tx: Tx): Promise<void> {
  await tx.query(sql.type(z.unknown())`select pg_advisory_xact_lock(hashtext('callora admin'))`);
}

/** Whether somebody else may run the whole platform. */
export async function existsOtherSuperAdmin(db: Queries, userId: string): Promise<boolean> {
  const row = await db.maybeOne(sql.type(z.object({ id: z.string() }))`
    select id from users where role = 'super_admin' and active and id <> ${userId} limit 1
  `);
  return row !== null;
}

/** What may be changed of a person. Null stays as it is. */
export interface UserChange {
  username: string | null;
  email: string | null;
  role: UserRow["role"] | null;
  active: boolean | null;
  ratePerSecond: number | null;
  rateBurst: number | null;
}

/** Change a person. */
export function updateUser(
  tx: Tx,
  user: { accountId: string; id: string; change: UserChange; now: Date },
): Promise<UserRow> {
  const { accountId, id, change } = user;
  return tx.one(sql.type(userRow)`
    update users set
      username = coalesce(${change.username}, username),
      email = coalesce(${change.email}, email),
      email_verified = email_verified and lower(coalesce(${change.email}, email)) = lower(email),
      role = coalesce(${change.role}, role),
      active = coalesce(${change.active}::boolean, active),
      rate_limit_per_second = coalesce(${change.ratePerSecond}::int, rate_limit_per_second),
      rate_limit_burst = coalesce(${change.rateBurst}::int, rate_limit_burst),
      updated_at = ${user.now.toISOString()}
    where account_id = ${accountId} and id = ${id}
    returning ${userColumns}
  `);
}

/** Give back a name, so that whoever had it, or anybody else, may claim it. */
export async function releaseUsername(tx: Tx, username: string): Promise<void> {
  await tx.query(sql.type(nothing)`delete from user_directory where username = lower(${username})`);
}

/** Give back an address. */
export async function releaseEmail(tx: Tx, email: string): Promise<void> {
  await tx.query(sql.type(nothing)`delete from email_directory where email = lower(${email})`);
}

/** Claim a name for a person who has none. False when it is taken. */
export async function claimUsername(
  tx: Tx,
  claim: { username: string; accountId: string; userId: string },
): Promise<boolean> {
  const row = await tx.maybeOne(sql.type(z.object({ user_id: z.string() }))`
    insert into user_directory (username, account_id, user_id)
    values (lower(${claim.username}), ${claim.accountId}, ${claim.userId})
    on conflict do nothing returning user_id
  `);
  return row !== null;
}

/** Claim an address for a person who has none. False when it is taken. */
export async function claimEmail(
  tx: Tx,
  claim: { email: string; accountId: string; userId: string },
): Promise<boolean> {
  const row = await tx.maybeOne(sql.type(z.object({ user_id: z.string() }))`
    insert into email_directory (email, account_id, user_id)
    values (lower(${claim.email}), ${claim.accountId}, ${claim.userId})
    on conflict do nothing returning user_id
  `);
  return row !== null;
}

/** Whether somebody has an address. */
export async function isEmailTaken(db: Queries, email: string): Promise<boolean> {
  const row = await db.maybeOne(sql.type(z.object({ user_id: z.string() }))`
    select user_id from email_directory where email = lower(${email})
  `);
  return row !== null;
}
