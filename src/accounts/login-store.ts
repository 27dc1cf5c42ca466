import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Queries, type Tx } from "../db/pool.ts";
import { type UserRow, userColumns, userRow } from "./store.ts";

const loginRow = userRow.extend({
  /** Null: there is another way to sign in, but no password. */
  password_hash: z.string().nullable(),
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
    select ${userColumns}, users.two_factor_enabled, methods.password_hash
    from named
    join users on users.account_id = named.account_id and users.id = named.user_id
    left join sign_in_methods as methods
      on methods.provider_id = 'credential' and methods.provider_account_id = users.id
  `);
}

/** The hash of a person's password. Null: they have none. */
export async function findPasswordHash(tx: Tx, userId: string): Promise<string | null> {
  const row = await tx.maybeOne(sql.type(loginRow.pick({ password_hash: true }))`
    select password_hash from sign_in_methods
    where provider_id = 'credential' and provider_account_id = ${userId}
  `);
  return row?.password_hash ?? null;
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

/** Delete what was mailed to a person, or begun by them, and would let them go on: links for a new password. */
export async function deleteSignInTokens(tx: Tx, userId: string): Promise<void> {
  await tx.query(sql.type(nothing)`delete from sign_in_tokens where value = ${userId}`);
}
