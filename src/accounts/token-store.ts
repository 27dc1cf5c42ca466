import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Queries, type Tx } from "../db/pool.ts";
import { isId } from "../lib/id.ts";

const tokenRow = z.object({
  account_id: z.string(),
  id: z.string(),
  user_id: z.string(),
  name: z.string(),
  created_at: z.number(),
  expire_at: z.number().nullable(),
  last_used_at: z.number().nullable(),
  revoked_at: z.number().nullable(),
});

/** An API token, without its secret. */
export type TokenRow = z.infer<typeof tokenRow>;

const tokenColumns = sql.fragment`
  api_tokens.account_id, api_tokens.id, api_tokens.user_id, api_tokens.name,
  api_tokens.created_at, api_tokens.expire_at, api_tokens.last_used_at, api_tokens.revoked_at
`;

/** Insert a token under its maker's own account, and whose its hash is. */
export function insertToken(
  tx: Tx,
  token: {
    accountId: string;
    id: string;
    userId: string;
    name: string;
    hash: Buffer;
    expireAt: Date | null;
  },
): Promise<TokenRow> {
  return tx.one(sql.type(tokenRow)`
    with listed as (
      insert into api_token_directory (token_hash, account_id, token_id)
      values (${sql.binary(token.hash)}, ${token.accountId}, ${token.id})
    )
    insert into api_tokens (account_id, id, user_id, name, expire_at)
    values (
      ${token.accountId}, ${token.id}, ${token.userId}, ${token.name},
      ${token.expireAt?.toISOString() ?? null}
    )
    returning ${tokenColumns}
  `);
}

/** Count the tokens of a person that are good for something. */
export async function countTokens(
  db: Queries,
  { accountId, userId, now }: { accountId: string; userId: string; now: Date },
): Promise<number> {
  const { count } = await db.one(sql.type(z.object({ count: z.number() }))`
    select count(*)::int as count from api_tokens
    where account_id = ${accountId} and user_id = ${userId} and revoked_at is null
      and (expire_at is null or expire_at > ${now.toISOString()})
  `);
  return count;
}

/** Whether a credential that makes tokens was not ended: a session, or what an issuer says, which nobody ends here. */
export async function isCredentialLive(
  tx: Tx,
  { accountId, userId, id }: { accountId: string; userId: string; id: string },
): Promise<boolean> {
  if (!isId("ses", id)) {
    return true;
  }
  const row = await tx.maybeOne(sql.type(z.object({ id: z.string() }))`
    select id from sessions
    where account_id = ${accountId} and user_id = ${userId} and id = ${id} and revoked_at is null
  `);
  return row !== null;
}

/** The tokens that are listed. */
const tokensListedMax = 200;

/** List a person's tokens, newest first, and how many there are. Of many, those that are over are left out first. */
export async function listTokens(
  db: Queries,
  { accountId, userId, now }: { accountId: string; userId: string; now: Date },
): Promise<{ rows: readonly TokenRow[]; total: number }> {
  const rows = await db.any(sql.type(tokenRow.extend({ total: z.number() }))`
    with listed as (
      select ${tokenColumns}, count(*) over ()::int as total from api_tokens
      where account_id = ${accountId} and user_id = ${userId}
      order by revoked_at is null and (expire_at is null or expire_at > ${now.toISOString()}) desc,
        id desc
      limit ${tokensListedMax}
    )
    select * from listed order by id desc
  `);
  return { rows, total: rows[0]?.total ?? 0 };
}

const hashedTokenRow = tokenRow.extend({ token_hash: z.instanceof(Buffer) });

/** Find whose tokens hashes are. For all accounts. */
export function findTokensByHash(
  db: Queries,
  hashes: readonly Buffer[],
): Promise<readonly z.infer<typeof hashedTokenRow>[]> {
  return db.any(sql.type(hashedTokenRow)`
    select ${tokenColumns}, api_token_directory.token_hash
    from api_token_directory
    join api_tokens on api_tokens.account_id = api_token_directory.account_id
      and api_tokens.id = api_token_directory.token_id
    where api_token_directory.token_hash = any(${sql.array([...hashes], "bytea")})
  `);
}

const revokedRow = z.object({ id: z.string(), token_hash: z.instanceof(Buffer) });

/** Revoke one of a person's tokens. Null when there is none of that id. */
export function revokeToken(
  tx: Tx,
  token: { accountId: string; userId: string; id: string; now: Date },
): Promise<z.infer<typeof revokedRow> | null> {
  return tx.maybeOne(sql.type(revokedRow)`
    update api_tokens set revoked_at = coalesce(revoked_at, ${token.now.toISOString()})
    from api_token_directory
    where api_tokens.account_id = ${token.accountId} and api_tokens.user_id = ${token.userId}
      and api_tokens.id = ${token.id}
      and api_token_directory.account_id = api_tokens.account_id
      and api_token_directory.token_id = api_tokens.id
    returning api_tokens.id, api_token_directory.token_hash
  `);
}

/** Revoke all of a person's tokens that are good for something: so few that one announcement names them. */
export function revokeTokens(
  tx: Tx,
  { accountId, userId, now }: { accountId: string; userId: string; now: Date },
): Promise<readonly z.infer<typeof revokedRow>[]> {
  return tx.any(sql.type(revokedRow)`
    update api_tokens set revoked_at = ${now.toISOString()}
    from api_token_directory
    where api_tokens.account_id = ${accountId} and api_tokens.user_id = ${userId}
      and api_tokens.revoked_at is null
      and (api_tokens.expire_at is null or api_tokens.expire_at > ${now.toISOString()})
      and api_token_directory.account_id = api_tokens.account_id
      and api_token_directory.token_id = api_tokens.id
    returning api_tokens.id, api_token_directory.token_hash
  `);
}

/** When something was last used. */
export interface LastUse {
  accountId: string;
  id: string;
  at: Date;
}

/** Write down when tokens were last used. */
export async function updateTokenUses(tx: Tx, uses: readonly LastUse[]): Promise<void> {
  const rows = uses.map(({ accountId, id, at }) => [accountId, id, at.toISOString()]);
  await tx.query(sql.type(nothing)`
    update api_tokens set last_used_at = used.at
    from ${sql.unnest(rows, ["text", "text", "timestamptz"])} as used (account_id, id, at)
    where api_tokens.account_id = used.account_id and api_tokens.id = used.id
      and (api_tokens.last_used_at is null or api_tokens.last_used_at < used.at)
  `);
}
