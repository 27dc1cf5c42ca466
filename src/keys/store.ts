import { sql } from "slonik";
import { z } from "zod";
import type { Queries, Tx } from "../db/pool.ts";

const keyRow = z.object({
  account_id: z.string(),
  id: z.string(),
  api_id: z.string(),
  mode: z.enum(["live", "test"]),
  display_name: z.string(),
  prefix: z.string(),
  created_at: z.number(),
  expire_at: z.number().nullable(),
  revoked_at: z.number().nullable(),
});

/** A key, without its secret. */
export type KeyRow = z.infer<typeof keyRow>;

const keyColumns = sql.fragment`
  api_keys.account_id, api_keys.id, api_keys.api_id, api_keys.mode, api_keys.display_name,
  api_keys.prefix, api_keys.created_at, api_keys.expire_at, api_keys.revoked_at
`;

/** Insert a key and whose it is. Null when the account has a live one for the API. */
export function insertKey(
  tx: Tx,
  key: {
    accountId: string;
    id: string;
    userId: string;
    apiId: string;
    mode: KeyRow["mode"];
    displayName: string;
    prefix: string;
    hash: Buffer;
    expireAt: Date | null;
  },
): Promise<KeyRow | null> {
  return tx.maybeOne(sql.type(keyRow)`
    with inserted as (
      insert into api_keys (
        account_id, id, user_id, api_id, mode, display_name, prefix, key_hash, expire_at
      )
      values (
        ${key.accountId}, ${key.id}, ${key.userId}, ${key.apiId}, ${key.mode}, ${key.displayName},
        ${key.prefix}, ${sql.binary(key.hash)}, ${key.expireAt?.toISOString() ?? null}
      )
      on conflict (account_id, api_id, mode) where revoked_at is null do nothing
      returning ${keyColumns}, api_keys.key_hash
    ), listed as (
      insert into api_key_directory (key_hash, account_id, key_id)
      select key_hash, account_id, id from inserted
    )
    select ${sql.fragment`account_id, id, api_id, mode, display_name, prefix`},
      created_at, expire_at, revoked_at
    from inserted
  `);
}

/** Find one of the account's keys. */
export function findKey(db: Queries, accountId: string, keyId: string): Promise<KeyRow | null> {
  return db.maybeOne(sql.type(keyRow)`
    select ${keyColumns} from api_keys where account_id = ${accountId} and id = ${keyId}
  `);
}

/** Find whose key a hash is. For callers before they are known: acts for all accounts. */
export function findKeyByHash(db: Queries, hash: Buffer): Promise<KeyRow | null> {
  return db.maybeOne(sql.type(keyRow)`
    select ${keyColumns} from api_key_directory
    join api_keys on api_keys.account_id = api_key_directory.account_id
      and api_keys.id = api_key_directory.key_id
    where api_key_directory.key_hash = ${sql.binary(hash)}
  `);
}

/** List the account's keys, newest first, before the given id (empty: from the newest). */
export function listKeys(
  db: Queries,
  { accountId, after, limit }: { accountId: string; after: string; limit: number },
): Promise<readonly KeyRow[]> {
  return db.any(sql.type(keyRow)`
    select ${keyColumns} from api_keys
    where account_id = ${accountId} and (${after} = '' or id < ${after})
    order by id desc limit ${limit}
  `);
}

/** Revoke one of the account's keys. One that is revoked already stays as it is. */
export function revokeKey(
  tx: Tx,
  { accountId, keyId, now }: { accountId: string; keyId: string; now: Date },
): Promise<KeyRow | null> {
  return tx.maybeOne(sql.type(keyRow)`
    update api_keys set revoked_at = coalesce(revoked_at, ${now.toISOString()})
    where account_id = ${accountId} and id = ${keyId}
    returning ${keyColumns}
  `);
}

/** Revoke the account's live keys for an API. */
export function revokeKeysForApi(
  tx: Tx,
  { accountId, apiId, now }: { accountId: string; apiId: string; now: Date },
): Promise<readonly KeyRow[]> {
  return tx.any(sql.type(keyRow)`
    update api_keys set revoked_at = ${now.toISOString()}
    where account_id = ${accountId} and api_id = ${apiId} and revoked_at is null
    returning ${keyColumns}
  `);
}
