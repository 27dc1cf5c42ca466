import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Queries, type Tx } from "../db/pool.ts";

const sessionRow = z.object({
  id: z.string(),
  account_id: z.string(),
  user_id: z.string(),
  method: z.enum(["password", "wallet", "cookie"]),
  ip: z.string().nullable(),
  created_at: z.number(),
  expire_at: z.number(),
  revoked_at: z.number().nullable(),
});

/** A sign-in. */
export type SessionRow = z.infer<typeof sessionRow>;

const sessionColumns = sql.fragment`
  id, account_id, user_id, method, host(ip) as ip, created_at, expire_at, revoked_at
`;

/** Store a session. */
export async function insertSession(
  tx: Tx,
  session: {
    id: string;
    accountId: string;
    userId: string;
    method: SessionRow["method"];
    ip: string;
    now: Date;
    expireAt: Date;
  },
): Promise<void> {
  await tx.query(sql.type(nothing)`
    insert into sessions (id, account_id, user_id, method, ip, created_at, expire_at)
    values (
      ${session.id}, ${session.accountId}, ${session.userId}, ${session.method},
      ${session.ip === "" ? null : session.ip}, ${session.now.toISOString()},
      ${session.expireAt.toISOString()}
    )
  `);
}

const liveSessionRow = sessionRow.pick({
  id: true,
  user_id: true,
  method: true,
  expire_at: true,
});

/** Whose a session is, how it was opened, and until when it lasts. */
export type LiveSessionRow = z.infer<typeof liveSessionRow>;

/** List those of the sessions that were not ended. They may be past their time. For all accounts. */
export function listLiveSessions(
  db: Queries,
  ids: readonly string[],
): Promise<readonly LiveSessionRow[]> {
  return db.any(sql.type(liveSessionRow)`
    select id, user_id, method, expire_at from sessions
    where id = any(${sql.array([...ids], "text")}) and revoked_at is null
  `);
}

const hashRow = z.object({ hash: z.string(), id: z.string() });

/** List which sessions the tokens open whose hashes, in hex, are given. For all accounts. */
export function listSessionsByHash(
  db: Queries,
  hashes: readonly string[],
): Promise<readonly z.infer<typeof hashRow>[]> {
  const bytes = hashes.map((hash) => Buffer.from(hash, "hex"));
  return db.any(sql.type(hashRow)`
    select encode(token_hash, 'hex') as hash, id from sessions
    where token_hash = any(${sql.array(bytes, "bytea")})
  `);
}

/** The sessions that are listed. */
const sessionsMax = 200;

/** List a person's sessions that last, newest first. */
export function listSessions(
  db: Queries,
  { accountId, userId, now }: { accountId: string; userId: string; now: Date },
): Promise<readonly SessionRow[]> {
  return db.any(sql.type(sessionRow)`
    select ${sessionColumns} from sessions
    where account_id = ${accountId} and user_id = ${userId} and revoked_at is null
      and expire_at > ${now.toISOString()}
    order by id desc limit ${sessionsMax}
  `);
}

/** End one of a person's sessions. Null when there is none of that id. */
export function revokeSession(
  tx: Tx,
  session: { accountId: string; userId: string; id: string; now: Date },
): Promise<SessionRow | null> {
  return tx.maybeOne(sql.type(sessionRow)`
    update sessions set revoked_at = coalesce(revoked_at, ${session.now.toISOString()})
    where account_id = ${session.accountId} and user_id = ${session.userId} and id = ${session.id}
    returning ${sessionColumns}
  `);
}

/** End all of a person's sessions. Returns their ids. */
export async function revokeSessions(
  tx: Tx,
  { accountId, userId, now }: { accountId: string; userId: string; now: Date },
): Promise<string[]> {
  const rows = await tx.any(sql.type(z.object({ id: z.string() }))`
    update sessions set revoked_at = ${now.toISOString()}
    where account_id = ${accountId} and user_id = ${userId} and revoked_at is null
    returning id
  `);
  return rows.map(({ id }) => id);
}

/** Delete up to 1,000 sessions that are over. */
export async function deleteExpiredSessions(tx: Tx, now: Date): Promise<void> {
  await tx.query(sql.type(nothing)`
    delete from sessions where id in (
      select id from sessions where expire_at < ${now.toISOString()} limit 1000
    )
  `);
}
