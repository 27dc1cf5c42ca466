import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Tx } from "../db/pool.ts";

const knownKeyRow = z.object({
  hash: z.string(),
  account_id: z.string(),
  id: z.string(),
  api_id: z.string().nullable(),
  mode: z.enum(["live", "test"]),
  is_disabled: z.boolean(),
  expire_at: z.number().nullable(),
  scopes: z.array(z.string()),
  allowed_cidrs: z.array(z.string()),
  metadata: z.record(z.string(), z.string()),
  family_id: z.string(),
  created_by: z.string(),
  rate_limit_per_minute: z.number().nullable(),
  rate_limit_per_day: z.number().nullable(),
  uses_left: z.bigint().nullable(),
  refill_at: z.number().nullable(),
});

/** What a verdict on a key needs. */
export type KnownKeyRow = z.infer<typeof knownKeyRow>;

/** Find the keys of hashes, in hexadecimal digits. For callers before they are known: acts for all accounts. */
export function listKeysByHash(tx: Tx, hashes: readonly string[]): Promise<readonly KnownKeyRow[]> {
  return tx.any(sql.type(knownKeyRow)`
    select asked.hash, api_keys.account_id, api_keys.id, api_keys.api_id, api_keys.mode,
      api_keys.revoked_at is not null or api_keys.state = 'disabled' as is_disabled,
      least(api_keys.expire_at, api_keys.rotate_until) as expire_at,
      api_keys.scopes, api_keys.allowed_cidrs, api_keys.metadata, api_keys.family_id,
      api_keys.created_by,
      api_keys.rate_limit_per_minute, api_keys.rate_limit_per_day,
      case when key_quotas.uses_max is not null then key_quotas.uses_left end as uses_left,
      key_quotas.refill_at
    from unnest(${sql.array(hashes, "text")}) as asked (hash)
    join api_key_directory on api_key_directory.key_hash = decode(asked.hash, 'hex')
    join api_keys on api_keys.account_id = api_key_directory.account_id
      and api_keys.id = api_key_directory.key_id and api_keys.deleted_at is null
    left join key_quotas on key_quotas.account_id = api_keys.account_id
      and key_quotas.family_id = api_keys.family_id
  `);
}

const takingRow = z.object({
  n: z.number(),
  is_granted: z.boolean(),
  uses_left: z.bigint(),
  refill_at: z.number().nullable(),
});

/**
 * Take uses from quotas, each of the takings wholly or not at all, the smallest first. There is no row for the
 * taking of a quota that does not exist; `n` is the place in the list.
 *
 * Quotas whose time has come are refilled before. They are locked in one order, so that no two statements wait for
 * each other.
 */
export function consumeUses(
  tx: Tx,
  takings: readonly { accountId: string; familyId: string; cost: number }[],
  now: Date,
): Promise<readonly z.infer<typeof takingRow>[]> {
  const rows = takings.map(({ accountId, familyId, cost }, n) => [n, accountId, familyId, cost]);
  const at = sql.fragment`${now.toISOString()}::timestamptz`;
  return tx.any(sql.type(takingRow)`
    with wanted as (
      select n, account_id, family_id,
        sum(cost) over (partition by account_id, family_id order by cost, n) as running
      from ${sql.unnest(rows, ["int4", "text", "text", "int8"])}
        as asked (n, account_id, family_id, cost)
    ), locked as (
      select account_id, family_id, refill, refill_day, refilled_at, refill_at,
        coalesce(refill_at <= ${at}, false) as is_due,
        case when refill_at <= ${at} then uses_max else uses_left end as available
      from key_quotas
      where uses_max is not null
        and (account_id, family_id) in (select account_id, family_id from wanted)
      order by account_id, family_id
      for update
    ), taken as (
      select locked.account_id, locked.family_id, locked.is_due,
        locked.available
          - coalesce(max(running) filter (where running <= locked.available), 0) as uses_left,
        case when locked.is_due then ${at} else locked.refilled_at end as refilled_at,
        case
          when locked.is_due then callora_next_refill(locked.refill, locked.refill_day, ${at})
          else locked.refill_at
        end as refill_at
      from locked
      join wanted on wanted.account_id = locked.account_id and wanted.family_id = locked.family_id
      group by locked.account_id, locked.family_id, locked.is_due, locked.available,
        locked.refilled_at, locked.refill_at, locked.refill, locked.refill_day
    ), written as (
      update key_quotas
      set uses_left = taken.uses_left, refilled_at = taken.refilled_at, refill_at = taken.refill_at
      from taken
      where key_quotas.account_id = taken.account_id and key_quotas.family_id = taken.family_id
        and (taken.is_due or taken.uses_left <> key_quotas.uses_left)
    )
    select wanted.n, wanted.running <= locked.available as is_granted,
      taken.uses_left::int8 as uses_left, taken.refill_at
    from wanted
    join locked on locked.account_id = wanted.account_id and locked.family_id = wanted.family_id
    join taken on taken.account_id = wanted.account_id and taken.family_id = wanted.family_id
  `);
}

/** Write down when keys were last used, up to a thousand. */
export async function touchKeys(
  tx: Tx,
  uses: readonly { accountId: string; id: string; usedAt: Date }[],
): Promise<void> {
  const rows = uses
    .toSorted((a, b) => (a.id < b.id ? -1 : 1))
    .map(({ accountId, id, usedAt }) => [accountId, id, usedAt.toISOString()]);
  await tx.query(sql.type(nothing)`
    update api_keys set last_used_at = greatest(api_keys.last_used_at, used.used_at)
    from ${sql.unnest(rows, ["text", "text", "timestamptz"])} as used (account_id, id, used_at)
    where api_keys.account_id = used.account_id and api_keys.id = used.id
  `);
}
