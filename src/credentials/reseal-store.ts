import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Tx } from "../db/pool.ts";

// All accounts' credentials, by the key that sealed them. For the worker.

const checkRow = z.object({ version: z.number(), check_value: z.instanceof(Buffer) });

/** A version of the keys, and what it is recognised by. */
export type KeyCheckRow = z.infer<typeof checkRow>;

/** Insert what versions are recognised by. One that is known stays as it is. */
export async function insertKeyChecks(tx: Tx, checks: readonly KeyCheckRow[]): Promise<void> {
  const rows = checks.map(({ version, check_value }) => [version, check_value]);
  await tx.query(sql.type(nothing)`
    insert into encryption_keys (version, check_value)
    select version, check_value from ${sql.unnest(rows, ["int4", "bytea"])} as made (version, check_value)
    on conflict do nothing
  `);
}

/** List what some versions are recognised by. */
export function listKeyChecks(
  tx: Tx,
  versions: readonly number[],
): Promise<readonly KeyCheckRow[]> {
  return tx.any(sql.type(checkRow)`
    select version, check_value from encryption_keys
    where version = any(${sql.array(versions, "int4")}) order by version
  `);
}

const versionRow = z.object({ version: z.number(), count: z.bigint() });

/** Count the readable credentials of each version of the keys that is not among the given ones. */
export function countOtherVersions(
  tx: Tx,
  versions: readonly number[],
): Promise<readonly z.infer<typeof versionRow>[]> {
  return tx.any(sql.type(versionRow)`
    select key_version as version, count(*) from credentials
    where key_version <> all(${sql.array(versions, "int4")}) and unreadable_at is null
    group by key_version order by key_version
  `);
}

const staleRow = z.object({
  account_id: z.string(),
  id: z.string(),
  provider: z.string(),
  environment: z.string(),
  sealed: z.instanceof(Buffer),
});

/** A credential that another key sealed. */
export type StaleRow = z.infer<typeof staleRow>;

/** Lock credentials that the given versions sealed, but those that others hold and those found unreadable. */
export function claimStale(
  tx: Tx,
  { versions, limit }: { versions: readonly number[]; limit: number },
): Promise<readonly StaleRow[]> {
  return tx.any(sql.type(staleRow)`
    select account_id, id, provider, environment, sealed from credentials
    where key_version = any(${sql.array(versions, "int4")}) and unreadable_at is null
    order by key_version limit ${limit}
    for update skip locked
  `);
}

/** Put a new seal in the place of the one that was read. False when somebody wrote another one since. */
export async function swapSealed(
  tx: Tx,
  { account_id, id, sealed }: StaleRow,
  next: Buffer,
): Promise<boolean> {
  const row = await tx.maybeOne(sql.type(z.object({ id: z.string() }))`
    update credentials set sealed = ${sql.binary(next)}
    where account_id = ${account_id} and id = ${id} and sealed = ${sql.binary(sealed)}
    returning id
  `);
  return row !== null;
}

/** Note that a credential cannot be opened, so that it is not tried again and again. */
export async function markUnreadable(
  tx: Tx,
  { account_id, id, sealed }: StaleRow,
  now: Date,
): Promise<void> {
  await tx.query(sql.type(nothing)`
    update credentials set unreadable_at = ${now.toISOString()}
    where account_id = ${account_id} and id = ${id} and sealed = ${sql.binary(sealed)}
  `);
}

/** Delete rows of removed credentials, at most so many. */
export async function purgeRemoved(tx: Tx, limit: number): Promise<void> {
  await tx.query(sql.type(nothing)`
    delete from credentials where (account_id, id) in (
      select account_id, id from credentials where sealed is null
      limit ${limit} for update skip locked
    ) and sealed is null
  `);
}

const progressRow = z.object({ to_reseal: z.bigint(), unreadable: z.bigint() });

/** Count the readable credentials that another version than the given one sealed, and the unreadable ones. */
export function countStale(tx: Tx, version: number): Promise<z.infer<typeof progressRow>> {
  // Two ranges, not <>: an index serves them.
  return tx.one(sql.type(progressRow)`
    select
      (select count(*) from credentials
        where (key_version < ${version} or key_version > ${version}) and unreadable_at is null
      ) as to_reseal,
      (select count(*) from credentials where unreadable_at is not null) as unreadable
  `);
}
