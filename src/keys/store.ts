import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Queries, type Tx } from "../db/pool.ts";

const keyRow = z.object({
  account_id: z.string(),
  id: z.string(),
  api_id: z.string().nullable(),
  family_id: z.string(),
  created_by: z.string(),
  mode: z.enum(["live", "test"]),
  state: z.enum(["active", "disabled"]),
  display_name: z.string(),
  prefix: z.string(),
  scopes: z.array(z.string()),
  allowed_cidrs: z.array(z.string()),
  rate_limit_per_minute: z.number().nullable(),
  rate_limit_per_day: z.number().nullable(),
  metadata: z.record(z.string(), z.string()),
  created_at: z.number(),
  updated_at: z.number(),
  last_used_at: z.number().nullable(),
  expire_at: z.number().nullable(),
  revoked_at: z.number().nullable(),
  rotated_to: z.string().nullable(),
  rotate_until: z.number().nullable(),
  uses_max: z.bigint().nullable(),
  uses_left: z.bigint().nullable(),
  refill: z.enum(["none", "daily", "monthly"]).nullable(),
  refill_day: z.number().nullable(),
  refilled_at: z.number().nullable(),
  refill_at: z.number().nullable(),
});

/** A key with its quota, without its secret. */
export type KeyRow = z.infer<typeof keyRow>;

/** What its account can choose of a key. */
export interface KeyRules {
  displayName: string;
  expireAt: Date | null;
  scopes: readonly string[];
  allowedCidrs: readonly string[];
  /** Null: not limited. */
  rateLimitPerMinute: number | null;
  /** Null: not limited. */
  rateLimitPerDay: number | null;
  metadata: Readonly<Record<string, string>>;
}

/** What a quota is filled to, and when. */
export interface QuotaRules {
  usesMax: bigint;
  refill: "none" | "daily" | "monthly";
  refillDay: number;
}

/** A key to insert. */
export interface NewKey extends KeyRules {
  accountId: string;
  id: string;
  /** Its own id, or that of the first key of a rotation. */
  familyId: string;
  userId: string;
  /** Who made it, or the first of its rotations. */
  createdBy: string;
  /** Null: every API. */
  apiId: string | null;
  mode: KeyRow["mode"];
  state: KeyRow["state"];
  prefix: string;
  hash: Buffer;
}

// A quota whose time has come is shown as if it were filled: the next use fills it.
const keyQuery = sql.fragment`
  select api_keys.account_id, api_keys.id, api_keys.api_id, api_keys.family_id, api_keys.created_by,
    api_keys.mode, api_keys.state, api_keys.display_name, api_keys.prefix, api_keys.scopes,
    api_keys.allowed_cidrs, api_keys.rate_limit_per_minute, api_keys.rate_limit_per_day,
    api_keys.metadata, api_keys.created_at, api_keys.updated_at, api_keys.last_used_at,
    api_keys.expire_at, api_keys.revoked_at, api_keys.rotated_to, api_keys.rotate_until,
    quota.uses_max, quota.refill, quota.refill_day, quota.refilled_at, quota.refill_at,
    case when quota.refill_at <= now() then quota.uses_max else quota.uses_left end as uses_left
  from api_keys
  left join key_quotas as quota
    on quota.account_id = api_keys.account_id and quota.family_id = api_keys.family_id
    and quota.uses_max is not null
`;

/** Insert a key and whose it is. False when the account has a live one for the API. */
export async function insertKey(tx: Tx, key: NewKey): Promise<boolean> {
  const row = await tx.maybeOne(sql.type(z.object({ id: z.string() }))`
    with inserted as (
      insert into api_keys (
        account_id, id, family_id, user_id, created_by, api_id, mode, state, display_name, prefix, key_hash,
        scopes, allowed_cidrs, rate_limit_per_minute, rate_limit_per_day, metadata, expire_at
      )
      values (
        ${key.accountId}, ${key.id}, ${key.familyId}, ${key.userId}, ${key.createdBy}, ${key.apiId}, ${key.mode},
        ${key.state}, ${key.displayName}, ${key.prefix}, ${sql.binary(key.hash)},
        ${sql.array(key.scopes, "text")}, ${sql.array(key.allowedCidrs, "text")},
        ${key.rateLimitPerMinute}, ${key.rateLimitPerDay}, ${JSON.stringify(key.metadata)}::jsonb,
        ${key.expireAt?.toISOString() ?? null}
      )
      on conflict (account_id, api_id, mode) where revoked_at is null and rotated_to is null
      do nothing
      returning key_hash, account_id, id
    )
    insert into api_key_directory (key_hash, account_id, key_id)
    select key_hash, account_id, id from inserted
    returning key_id as id
  `);
  return row !== null;
}

/** Whether a key of the account for the API is still accepted beside one that replaced it. */
export async function existsReplaced(
  tx: Tx,
  key: { accountId: string; apiId: string | null; mode: KeyRow["mode"]; now: Date },
): Promise<boolean> {
  const row = await tx.maybeOne(sql.type(z.object({ id: z.string() }))`
    select id from api_keys
    where account_id = ${key.accountId} and api_id = ${key.apiId} and mode = ${key.mode}
      and revoked_at is null and rotate_until > ${key.now.toISOString()}
    limit 1
  `);
  return row !== null;
}

/** Find one of the account's keys. A deleted one is not found. */
export function findKey(db: Queries, accountId: string, keyId: string): Promise<KeyRow | null> {
  return db.maybeOne(sql.type(keyRow)`
    ${keyQuery}
    where api_keys.account_id = ${accountId} and api_keys.id = ${keyId}
      and api_keys.deleted_at is null
  `);
}

/** Find one of the account's keys like findKey, and keep others from changing it until the transaction ends. */
export function findKeyForUpdate(tx: Tx, accountId: string, keyId: string): Promise<KeyRow | null> {
  return tx.maybeOne(sql.type(keyRow)`
    ${keyQuery}
    where api_keys.account_id = ${accountId} and api_keys.id = ${keyId}
      and api_keys.deleted_at is null
    for update of api_keys
  `);
}

/** Which of an account's keys are listed. */
export interface KeyFilter {
  accountId: string;
  /** Empty: of all APIs. */
  apiId: string;
  /** Empty: of both modes. */
  mode: string;
  /** Of `active`, `disabled` and `revoked`. Empty: all. */
  states: readonly string[];
}

/** List the account's keys, newest first, before the given id (empty: from the newest). */
export function listKeys(
  db: Queries,
  { accountId, apiId, mode, states }: KeyFilter,
  { after, limit }: { after: string; limit: number },
): Promise<readonly KeyRow[]> {
  const wanted = sql.array(states, "text");
  return db.any(sql.type(keyRow)`
    ${keyQuery}
    where api_keys.account_id = ${accountId} and api_keys.deleted_at is null
      and (${after} = '' or api_keys.id < ${after})
      and (${apiId} = '' or api_keys.api_id = ${apiId})
      and (${mode} = '' or api_keys.mode = ${mode})
      and (
        cardinality(${wanted}) = 0
        or case when api_keys.revoked_at is null then api_keys.state else 'revoked' end
          = any(${wanted})
      )
    order by api_keys.id desc limit ${limit}
  `);
}

/** Count the account's keys that may be accepted, now or once they are enabled. */
export async function countLiveKeys(tx: Tx, accountId: string): Promise<number> {
  const row = await tx.one(sql.type(z.object({ count: z.number() }))`
    select count(*)::int4 as count from api_keys
    where account_id = ${accountId} and revoked_at is null
      and (rotate_until is null or rotate_until > now())
  `);
  return row.count;
}

/** Change the rules of one of the account's keys. */
export async function updateKey(
  tx: Tx,
  { accountId, keyId, now }: { accountId: string; keyId: string; now: Date },
  rules: KeyRules,
): Promise<void> {
  await tx.query(sql.type(nothing)`
    update api_keys set
      display_name = ${rules.displayName},
      expire_at = ${rules.expireAt?.toISOString() ?? null},
      scopes = ${sql.array(rules.scopes, "text")},
      allowed_cidrs = ${sql.array(rules.allowedCidrs, "text")},
      rate_limit_per_minute = ${rules.rateLimitPerMinute},
      rate_limit_per_day = ${rules.rateLimitPerDay},
      metadata = ${JSON.stringify(rules.metadata)}::jsonb,
      updated_at = ${now.toISOString()}
    where account_id = ${accountId} and id = ${keyId}
  `);
}

/** Disable or enable one of the account's keys. */
export async function updateKeyState(
  tx: Tx,
  {
    accountId,
    keyId,
    state,
    now,
  }: { accountId: string; keyId: string; state: KeyRow["state"]; now: Date },
): Promise<void> {
  await tx.query(sql.type(nothing)`
    update api_keys set state = ${state}, updated_at = ${now.toISOString()}
    where account_id = ${accountId} and id = ${keyId} and state <> ${state}
  `);
}

/** Fill the quota of a family of keys, by the given rules from now on. Null: it has no quota any more. */
export async function upsertQuota(
  tx: Tx,
  { accountId, familyId, now }: { accountId: string; familyId: string; now: Date },
  rules: QuotaRules | null,
): Promise<void> {
  const { usesMax, refill, refillDay } = rules ?? { usesMax: null, refill: "none", refillDay: 1 };
  const at = sql.fragment`${now.toISOString()}::timestamptz`;
  await tx.query(sql.type(nothing)`
    insert into key_quotas (
      account_id, family_id, uses_max, uses_left, refill, refill_day, refilled_at, refill_at
    )
    values (
      ${accountId}, ${familyId}, ${usesMax}, ${usesMax ?? 0}, ${refill}, ${refillDay}, ${at},
      callora_next_refill(${refill}, ${refillDay}, ${at})
    )
    on conflict (account_id, family_id) do update set
      uses_max = excluded.uses_max, uses_left = excluded.uses_left, refill = excluded.refill,
      refill_day = excluded.refill_day, refilled_at = excluded.refilled_at,
      refill_at = excluded.refill_at
  `);
}

/** Let a key be accepted beside the one that replaces it until a moment. */
export async function markRotated(
  tx: Tx,
  {
    accountId,
    keyId,
    rotatedTo,
    until,
    now,
  }: { accountId: string; keyId: string; rotatedTo: string; until: Date; now: Date },
): Promise<void> {
  await tx.query(sql.type(nothing)`
    update api_keys
    set rotated_to = ${rotatedTo}, rotate_until = ${until.toISOString()},
      updated_at = ${now.toISOString()}
    where account_id = ${accountId} and id = ${keyId}
  `);
}

/** Whether the key that this one replaces is still accepted. */
export async function existsOverlap(
  tx: Tx,
  { accountId, familyId, now }: { accountId: string; familyId: string; now: Date },
): Promise<boolean> {
  const row = await tx.maybeOne(sql.type(z.object({ id: z.string() }))`
    select id from api_keys
    where account_id = ${accountId} and family_id = ${familyId} and revoked_at is null
      and rotate_until > ${now.toISOString()}
    limit 1
  `);
  return row !== null;
}

const hashRow = z.object({ hash: z.string() });

/** List the hashes, in hexadecimal digits, of a key and of those of its family that may still be accepted. */
export async function listFamilyHashes(
  tx: Tx,
  {
    accountId,
    familyId,
    keyId,
    now,
  }: Record<"accountId" | "familyId" | "keyId", string> & {
    now: Date;
  },
): Promise<readonly string[]> {
  const rows = await tx.any(sql.type(hashRow)`
    select encode(key_hash, 'hex') as hash from api_keys
    where account_id = ${accountId} and family_id = ${familyId}
      and (
        id = ${keyId}
        or (revoked_at is null and (rotate_until is null or rotate_until > ${now.toISOString()}))
      )
  `);
  return rows.map(({ hash }) => hash);
}

const revokedRow = z.object({ id: z.string(), hash: z.string() });

/** A key that was revoked, with the hash of its secret in hexadecimal digits. */
export type RevokedRow = z.infer<typeof revokedRow>;

/** Revoke one of the account's keys. One that is revoked already stays as it is. Null: there is none. */
export function revokeKey(
  tx: Tx,
  { accountId, keyId, now }: { accountId: string; keyId: string; now: Date },
): Promise<RevokedRow | null> {
  return tx.maybeOne(sql.type(revokedRow)`
    update api_keys set revoked_at = coalesce(revoked_at, ${now.toISOString()})
    where account_id = ${accountId} and id = ${keyId} and deleted_at is null
    returning id, encode(key_hash, 'hex') as hash
  `);
}

/** Revoke the account's live keys for an API: not those whose rotation is over, of which there may be any number. */
export function revokeKeysForApi(
  tx: Tx,
  { accountId, apiId, now }: { accountId: string; apiId: string; now: Date },
): Promise<readonly RevokedRow[]> {
  return tx.any(sql.type(revokedRow)`
    update api_keys set revoked_at = ${now.toISOString()}
    where account_id = ${accountId} and api_id = ${apiId} and revoked_at is null
      and (rotate_until is null or rotate_until > ${now.toISOString()})
    returning id, encode(key_hash, 'hex') as hash
  `);
}

/** Revoke and remove one of the account's keys. Its hash stays in the directory, so that it is never given again. */
export function deleteKey(
  tx: Tx,
  { accountId, keyId, now }: { accountId: string; keyId: string; now: Date },
): Promise<RevokedRow | null> {
  const at = now.toISOString();
  return tx.maybeOne(sql.type(revokedRow)`
    update api_keys set revoked_at = coalesce(revoked_at, ${at}), deleted_at = ${at}
    where account_id = ${accountId} and id = ${keyId} and deleted_at is null
    returning id, encode(key_hash, 'hex') as hash
  `);
}
