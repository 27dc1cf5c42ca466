import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Queries, type Tx } from "../db/pool.ts";

const userRow = z.object({
  account_id: z.string(),
  id: z.string(),
  username: z.string(),
  email: z.string(),
  role: z.enum(["user", "developer", "admin", "super_admin"]),
  created_at: z.number(),
});

/** A person, without the password. */
export type UserRow = z.infer<typeof userRow>;

const userColumns = sql.fragment`
  users.account_id, users.id, users.username, users.email, users.role, users.created_at
`;

/** Get one of the account's people. Throws NotFoundError if it has none of that id. */
export function getUser(db: Queries, accountId: string, userId: string): Promise<UserRow> {
  return db.one(sql.type(userRow)`
    select ${userColumns} from users where account_id = ${accountId} and id = ${userId}
  `);
}

const loginRow = userRow.extend({
  /** Null: there is another way to sign in, but no password. */
  password_hash: z.string().nullable(),
  active: z.boolean(),
  two_factor_enabled: z.boolean(),
});

/** A person, and what it takes to sign in as them. */
export type LoginRow = z.infer<typeof loginRow>;

/** Find who signs in under a name or a mail address, in whichever case. A name goes before an address. */
export function findLogin(db: Queries, name: string): Promise<LoginRow | null> {
  return db.maybeOne(sql.type(loginRow)`
    with named as (
      select account_id, user_id, 1 as rank from user_directory where username = lower(${name})
      union all
      select account_id, user_id, 2 from email_directory where email = lower(${name})
      order by rank limit 1
    )
    select ${userColumns}, users.active, users.two_factor_enabled, methods.password_hash
    from named
    join users on users.account_id = named.account_id and users.id = named.user_id
    left join sign_in_methods as methods
      on methods.provider_id = 'credential' and methods.provider_account_id = users.id
  `);
}

const sessionUserRow = userRow.extend({ session_id: z.string() });

/** Find whose session a token opens. Null when it is over, or its person was deactivated. */
export function findSession(
  db: Queries,
  { tokenHash, now }: { tokenHash: Buffer; now: Date },
): Promise<z.infer<typeof sessionUserRow> | null> {
  return db.maybeOne(sql.type(sessionUserRow)`
    select ${userColumns}, sessions.id as session_id
    from sessions
    join users on users.account_id = sessions.account_id and users.id = sessions.user_id
    where sessions.token_hash = ${sql.binary(tokenHash)}
      and sessions.expire_at > ${now.toISOString()} and users.active
      and sessions.revoked_at is null
  `);
}

/** Store a session, by the hash of its token. */
export async function insertSession(
  tx: Tx,
  session: { id: string; tokenHash: Buffer; accountId: string; userId: string; expireAt: Date },
): Promise<void> {
  await tx.query(sql.type(nothing)`
    insert into sessions (id, token_hash, account_id, user_id, expire_at)
    values (
      ${session.id}, ${sql.binary(session.tokenHash)}, ${session.accountId},
      ${session.userId}, ${session.expireAt.toISOString()}
    )
  `);
}

/** Delete up to 1,000 sessions that are over. */
export async function deleteExpiredSessions(tx: Tx, now: Date): Promise<void> {
  await tx.query(sql.type(nothing)`
    delete from sessions where id in (
      select id from sessions where expire_at < ${now.toISOString()} limit 1000
    )
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

/** Say in which account a new person's own row is. */
export async function insertPerson(tx: Tx, userId: string, accountId: string): Promise<void> {
  await tx.query(sql.type(nothing)`
    insert into person_directory (user_id, account_id) values (${userId}, ${accountId})
  `);
}

/** Set a person's password, whether there was one or not. */
export async function upsertPassword(
  tx: Tx,
  { id, userId, passwordHash }: { id: string; userId: string; passwordHash: string },
): Promise<void> {
  await tx.query(sql.type(nothing)`
    insert into sign_in_methods (id, user_id, provider_id, provider_account_id, password_hash)
    values (${id}, ${userId}, 'credential', ${userId}, ${passwordHash})
    on conflict (provider_id, provider_account_id)
    do update set password_hash = excluded.password_hash, updated_at = now()
  `);
}

/** Delete a person's second factor. False when there was none. */
export async function deleteSecondFactor(tx: Tx, user: UserRow): Promise<boolean> {
  await tx.query(sql.type(nothing)`delete from second_factors where user_id = ${user.id}`);
  const row = await tx.maybeOne(sql.type(z.object({ id: z.string() }))`
    update users set two_factor_enabled = false, updated_at = now()
    where account_id = ${user.account_id} and id = ${user.id} and two_factor_enabled
    returning id
  `);
  return row !== null;
}

/** Those of the ids that are accounts. */
export async function existingAccounts(db: Queries, accountIds: string[]): Promise<Set<string>> {
  const rows = await db.any(sql.type(z.object({ account_id: z.string() }))`
    select account_id from accounts where account_id = any(${sql.array(accountIds, "text")})
  `);
  return new Set(rows.map((row) => row.account_id));
}
