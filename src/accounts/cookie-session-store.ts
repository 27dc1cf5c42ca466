import { sql } from "slonik";
import { z } from "zod";
import type { Queries, Tx } from "../db/pool.ts";

const hashRow = z.object({ hash: z.string(), id: z.string() });

/** List which sessions have tokens of the given hashes, in hex. */
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

const sessionRow = z.object({ id: z.string(), user_id: z.string(), expire_at: z.number() });

/** Whose a session is, and until when in milliseconds. */
export type LiveSessionRow = z.infer<typeof sessionRow>;

/** List those of the sessions that were not ended. They may be past their time. */
export function listLiveSessions(
  db: Queries,
  ids: readonly string[],
): Promise<readonly LiveSessionRow[]> {
  return db.any(sql.type(sessionRow)`
    select id, user_id, expire_at from sessions
    where id = any(${sql.array([...ids], "text")}) and revoked_at is null
  `);
}

/** Delete all sessions of a person, whatever opened them. Returns their ids, which are to be announced. */
export async function deleteSessionsOf(tx: Tx, userId: string): Promise<string[]> {
  const rows = await tx.any(sql.type(z.object({ id: z.string() }))`
    delete from sessions where user_id = ${userId} returning id
  `);
  return rows.map(({ id }) => id);
}
