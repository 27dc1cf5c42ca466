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

const loginRow = userRow.extend({ password_hash: z.string(), active: z.boolean() });

/** Find who signs in under a name, in whichever case. */
export function findLogin(db: Queries, username: string): Promise<z.infer<typeof loginRow> | null> {
  return db.maybeOne(sql.type(loginRow)`
    select ${userColumns}, users.password_hash, users.active
    from user_directory
    join users on users.account_id = user_directory.account_id and users.id = user_directory.user_id
    where user_directory.username = lower(${username})
  `);
}

/** Find whose session a token opens. Null when it is over, or its person was deactivated. */
export function findSession(
  db: Queries,
  { tokenHash, now }: { tokenHash: Buffer; now: Date },
): Promise<UserRow | null> {
  return db.maybeOne(sql.type(userRow)`
    select ${userColumns}
    from sessions
    join users on users.account_id = sessions.account_id and users.id = sessions.user_id
    where sessions.token_hash = ${sql.binary(tokenHash)}
      and sessions.expire_at > ${now.toISOString()} and users.active
  `);
}

/** Store a session, by the hash of its token. */
export async function insertSession(
  tx: Tx,
  session: { tokenHash: Buffer; accountId: string; userId: string; expireAt: Date },
): Promise<void> {
  await tx.query(sql.type(nothing)`
    insert into sessions (token_hash, account_id, user_id, expire_at)
    values (
      ${sql.binary(session.tokenHash)}, ${session.accountId}, ${session.userId},
      ${session.expireAt.toISOString()}
    )
  `);
}

/** Delete up to 1,000 sessions that are over. */
export async function deleteExpiredSessions(tx: Tx, now: Date): Promise<void> {
  await tx.query(sql.type(nothing)`
    delete from sessions where token_hash in (
      select token_hash from sessions where expire_at < ${now.toISOString()} limit 1000
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

/** Insert a person. */
export function insertUser(
  tx: Tx,
  user: {
    accountId: string;
    id: string;
    username: string;
    email: string;
    passwordHash: string;
    role: UserRow["role"];
  },
): Promise<UserRow> {
  return tx.one(sql.type(userRow)`
    insert into users (account_id, id, username, email, password_hash, role)
    values (
      ${user.accountId}, ${user.id}, ${user.username}, ${user.email}, ${user.passwordHash},
      ${user.role}
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
