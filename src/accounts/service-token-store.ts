import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Queries, type Tx } from "../db/pool.ts";
import type { LastUse } from "./token-store.ts";

const serviceTokenRow = z.object({
  id: z.string(),
  name: z.string(),
  scopes: z.array(z.string()),
  token_hash: z.instanceof(Buffer),
  created_at: z.number(),
  last_used_at: z.number().nullable(),
  revoked_at: z.number().nullable(),
});

/** A service's token. */
export type ServiceTokenRow = z.infer<typeof serviceTokenRow>;

const columns = sql.fragment`
  id, name, scopes, token_hash, created_at, last_used_at, revoked_at
`;

/** Insert a service's token. */
export function insertServiceToken(
  tx: Tx,
  token: { id: string; name: string; hash: Buffer; scopes: readonly string[] },
): Promise<ServiceTokenRow> {
  return tx.one(sql.type(serviceTokenRow)`
    insert into service_tokens (id, name, token_hash, scopes)
    values (
      ${token.id}, ${token.name}, ${sql.binary(token.hash)},
      ${sql.array([...token.scopes], "text")}
    )
    returning ${columns}
  `);
}

/** Find services' tokens by their hashes. */
export function findServiceTokens(
  db: Queries,
  hashes: readonly Buffer[],
): Promise<readonly ServiceTokenRow[]> {
  return db.any(sql.type(serviceTokenRow)`
    select ${columns} from service_tokens
    where token_hash = any(${sql.array([...hashes], "bytea")})
  `);
}

/** The tokens that are listed. */
const listedMax = 200;

/** List services' tokens, newest first. */
export function listServiceTokens(db: Queries): Promise<readonly ServiceTokenRow[]> {
  return db.any(sql.type(serviceTokenRow)`
    select ${columns} from service_tokens order by id desc limit ${listedMax}
  `);
}

/** Revoke a service's token. Null when there is none of that id. */
export function revokeServiceToken(
  tx: Tx,
  { id, now }: { id: string; now: Date },
): Promise<ServiceTokenRow | null> {
  return tx.maybeOne(sql.type(serviceTokenRow)`
    update service_tokens set revoked_at = coalesce(revoked_at, ${now.toISOString()})
    where id = ${id} returning ${columns}
  `);
}

/** Write down when services' tokens were last used. */
export async function updateServiceTokenUses(tx: Tx, uses: readonly LastUse[]): Promise<void> {
  const rows = uses.map(({ id, at }) => [id, at.toISOString()]);
  await tx.query(sql.type(nothing)`
    update service_tokens set last_used_at = used.at
    from ${sql.unnest(rows, ["text", "timestamptz"])} as used (id, at)
    where service_tokens.id = used.id
  `);
}
