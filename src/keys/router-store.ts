import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Queries, type Tx } from "../db/pool.ts";

const routerKeyRow = z.object({
  id: z.string(),
  start: z.string(),
  enabled: z.boolean(),
  created_at: z.number(),
  hash: z.string(),
});

/** An account's router key, with the hash of its secret in hexadecimal digits. */
export type RouterKeyRow = z.infer<typeof routerKeyRow>;

/** Find the account's router key. */
export function findRouterKey(db: Queries, accountId: string): Promise<RouterKeyRow | null> {
  return db.maybeOne(sql.type(routerKeyRow)`
    select id, start, enabled, created_at, encode(key_hash, 'hex') as hash from router_keys
    where account_id = ${accountId} and deleted_at is null
  `);
}

/** Let no other transaction change the account's router key until this one ends, whether there is a key or not. */
export async function lockRouterKey(tx: Tx, accountId: string): Promise<void> {
  await tx.query(sql.type(z.unknown())`
    select pg_advisory_xact_lock(hashtextextended(${`router key of ${accountId}`}, 0))
  `);
}

/** Give the account a router key, in the place of the one that it has or had. */
export async function upsertRouterKey(
  tx: Tx,
  key: {
    accountId: string;
    id: string;
    userId: string;
    start: string;
    hash: Buffer;
    now: Date;
  },
): Promise<void> {
  await tx.query(sql.type(nothing)`
    with listed as (
      insert into router_key_directory (key_hash, account_id)
      values (${sql.binary(key.hash)}, ${key.accountId})
    )
    insert into router_keys (account_id, id, user_id, start, key_hash, created_at)
    values (
      ${key.accountId}, ${key.id}, ${key.userId}, ${key.start}, ${sql.binary(key.hash)},
      ${key.now.toISOString()}
    )
    on conflict (account_id) do update set
      id = excluded.id, user_id = excluded.user_id, start = excluded.start,
      key_hash = excluded.key_hash, enabled = true, created_at = excluded.created_at,
      expire_at = null, deleted_at = null
  `);
}

/** Enable or disable the account's router key. */
export async function updateRouterKey(tx: Tx, accountId: string, enabled: boolean): Promise<void> {
  await tx.query(sql.type(nothing)`
    update router_keys set enabled = ${enabled}
    where account_id = ${accountId} and deleted_at is null
  `);
}

/** Delete the account's router key. Its hash stays in the directory. */
export async function deleteRouterKey(tx: Tx, accountId: string, now: Date): Promise<void> {
  await tx.query(sql.type(nothing)`
    update router_keys set deleted_at = ${now.toISOString()}
    where account_id = ${accountId} and deleted_at is null
  `);
}

const knownRow = z.object({
  hash: z.string(),
  account_id: z.string(),
  enabled: z.boolean(),
  expire_at: z.number().nullable(),
});

/** What a verdict on a router key needs. */
export type KnownRouterKey = z.infer<typeof knownRow>;

/** Find the router keys of hashes, in hexadecimal digits. Acts for all accounts. */
export function listRouterKeysByHash(
  tx: Tx,
  hashes: readonly string[],
): Promise<readonly KnownRouterKey[]> {
  return tx.any(sql.type(knownRow)`
    select asked.hash, router_keys.account_id, router_keys.enabled, router_keys.expire_at
    from unnest(${sql.array(hashes, "text")}) as asked (hash)
    join router_key_directory as directory on directory.key_hash = decode(asked.hash, 'hex')
    join router_keys on router_keys.account_id = directory.account_id
      and router_keys.key_hash = directory.key_hash and router_keys.deleted_at is null
  `);
}
