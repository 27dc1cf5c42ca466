import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Queries, type Tx } from "../db/pool.ts";
import { roles } from "../rpc/principal.ts";

const sessionRow = z.object({
  /** The session's id, or the hash of its token in hex: what it was asked for by. */
  key: z.string(),
  id: z.string(),
  account_id: z.string(),
  user_id: z.string(),
  expire_at: z.number(),
});

/** Whose a session is, and until when in milliseconds. */
export type SessionRow = z.infer<typeof sessionRow>;

/** List the sessions of the given keys: each the id of a session, or the hash of its token in hex. */
export function listSessions(db: Queries, keys: readonly string[]): Promise<readonly SessionRow[]> {
  return db.any(sql.type(sessionRow)`
    with wanted as (
      select key, case when key ~ '^[0-9a-f]{64}$' then decode(key, 'hex') end as hash
      from unnest(${sql.array([...keys], "text")}) as key
    )
    select wanted.key, id, account_id, user_id, expire_at
    from wanted join sessions on sessions.id = wanted.key
    union all
    select wanted.key, id, account_id, user_id, expire_at
    from wanted join sessions on sessions.token_hash = wanted.hash
  `);
}

const callerRow = z.object({ id: z.string(), account_id: z.string(), role: z.enum(roles) });

/** A person as a caller. */
export type CallerRow = z.infer<typeof callerRow>;

/** List those of the people who may call. */
export function listCallers(db: Queries, ids: readonly string[]): Promise<readonly CallerRow[]> {
  return db.any(sql.type(callerRow)`
    select users.id, users.account_id, users.role
    from person_directory as directory
    join users on users.account_id = directory.account_id and users.id = directory.user_id
    where directory.user_id = any(${sql.array([...ids], "text")}) and users.active
  `);
}

/** Store a session. Without the hash of a token it can only be named by its id. */
export async function insertSession(
  tx: Tx,
  session: {
    id: string;
    tokenHash: Buffer | null;
    accountId: string;
    userId: string;
    expireAt: Date;
  },
): Promise<void> {
  const { id, tokenHash, accountId, userId, expireAt } = session;
  await tx.query(sql.type(nothing)`
    insert into sessions (id, token_hash, account_id, user_id, expire_at)
    values (
      ${id}, ${tokenHash === null ? null : sql.binary(tokenHash)}, ${accountId}, ${userId},
      ${expireAt.toISOString()}
    )
  `);
}

const endedRow = z.object({ id: z.string(), hash: z.string().nullable() });

/** Delete all sessions of a person. Returns the keys under which they may be remembered. */
export async function deleteSessionsOf(tx: Tx, userId: string): Promise<string[]> {
  const rows = await tx.any(sql.type(endedRow)`
    delete from sessions where user_id = ${userId}
    returning id, encode(token_hash, 'hex') as hash
  `);
  return rows.flatMap(({ id, hash }) => (hash === null ? [id] : [id, hash]));
}

/** Delete up to 1,000 sessions that are over. */
export async function deleteExpiredSessions(tx: Tx, now: Date): Promise<void> {
  await tx.query(sql.type(nothing)`
    delete from sessions where id in (
      select id from sessions where expire_at < ${now.toISOString()} limit 1000
    )
  `);
}
