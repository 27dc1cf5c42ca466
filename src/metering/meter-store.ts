import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Queries, type Tx } from "../db/pool.ts";
import type { MeterDefinition } from "./meter-reading.ts";

const meterRow = z.object({
  account_id: z.string(),
  id: z.string(),
  slug: z.string(),
  aggregation: z.enum(["sum", "count", "avg", "min", "max", "unique_count", "latest"]),
  value_path: z.string(),
  groups: z.array(z.object({ name: z.string(), path: z.string() })),
  filters: z.array(
    z.object({ path: z.string(), values: z.array(z.string()), exclude: z.boolean() }),
  ),
  side: z.enum(["consumer", "developer"]),
  state: z.enum(["building", "active"]),
  created_at: z.number(),
});

/** A meter that is not deleted. */
export type MeterRow = z.infer<typeof meterRow>;

/** The definition that a row holds. */
export function definitionOf(row: MeterRow): MeterDefinition {
  const { aggregation, value_path: valuePath, groups, filters, side } = row;
  return { aggregation, valuePath, groups, filters, side };
}

/** The columns of a meter. */
export const meterColumns = sql.fragment`
  meters.account_id, id, slug, aggregation, value_path, groups, filters, side, state, created_at
`;

const idRow = z.object({ id: z.string() });

/** Insert a meter that is still to be built. False when the account has one of that slug. */
export async function insertMeter(
  tx: Tx,
  meter: MeterDefinition & { accountId: string; id: string; slug: string },
  now: Date,
): Promise<boolean> {
  const { accountId, id, slug, aggregation, valuePath, groups, filters, side } = meter;
  const row = await tx.maybeOne(sql.type(idRow)`
    insert into meters (
      account_id, id, slug, aggregation, value_path, groups, filters, side, created_at
    ) values (
      ${accountId}, ${id}, ${slug}, ${aggregation}, ${valuePath}, ${JSON.stringify(groups)}::jsonb,
      ${JSON.stringify(filters)}::jsonb, ${side}, ${now.toISOString()}
    )
    on conflict (account_id, slug) where state <> 'deleted' do nothing
    returning id
  `);
  return row !== null;
}

/** Keep others from making meters of the account until the transaction ends. */
export async function lockMeters(tx: Tx, accountId: string): Promise<void> {
  await tx.query(sql.type(z.unknown())`
    select pg_advisory_xact_lock(hashtextextended(${`meters of ${accountId}`}, 0))
  `);
}

const countRow = z.object({ count: z.number() });

/** How many meters the account has. */
export async function countMeters(db: Queries, accountId: string): Promise<number> {
  const { count } = await db.one(sql.type(countRow)`
    select count(*)::int4 as count from meters
    where account_id = ${accountId} and state <> 'deleted'
  `);
  return count;
}

/** Find one of the account's meters. */
export function findMeter(db: Queries, accountId: string, id: string): Promise<MeterRow | null> {
  return db.maybeOne(sql.type(meterRow)`
    select ${meterColumns} from meters
    where account_id = ${accountId} and id = ${id} and state <> 'deleted'
  `);
}

/** List the account's meters, newest first, before the given id (empty: from the newest). */
export function listMeters(
  db: Queries,
  { accountId, after, limit }: { accountId: string; after: string; limit: number },
): Promise<readonly MeterRow[]> {
  return db.any(sql.type(meterRow)`
    select ${meterColumns} from meters
    where account_id = ${accountId} and state <> 'deleted' and (${after} = '' or id < ${after})
    order by id desc limit ${limit}
  `);
}

/** Mark a meter as deleted. False when the account has none of that id. */
export async function deleteMeter(tx: Tx, accountId: string, id: string): Promise<boolean> {
  const row = await tx.maybeOne(sql.type(idRow)`
    update meters set state = 'deleted'
    where account_id = ${accountId} and id = ${id} and state <> 'deleted'
    returning id
  `);
  return row !== null;
}

const positions = z.array(z.string()).transform((list) => list.map((position) => BigInt(position)));

/** The row of a meter that counts. */
export const countedRow = meterRow.extend({ start_positions: positions, built_to: z.bigint() });

/** A meter that counts, and how far what was before it is counted. */
export type CountedMeter = z.infer<typeof countedRow>;

/** List the meters of accounts that count what is applied. */
export function listCountedMeters(
  tx: Tx,
  accountIds: readonly string[],
): Promise<readonly CountedMeter[]> {
  return tx.any(sql.prepared("list_counted_meters", countedRow)`
    select ${meterColumns}, start_positions::text[] as start_positions, built_to from meters
    where account_id = any(${sql.array([...accountIds], "text")}) and state <> 'deleted'
      and start_positions is not null
    order by account_id, id
  `);
}

/** The same, so that no building goes on until the transaction ends. */
export function holdCountedMeters(
  tx: Tx,
  accountIds: readonly string[],
): Promise<readonly CountedMeter[]> {
  return tx.any(sql.type(countedRow)`
    select ${meterColumns}, start_positions::text[] as start_positions, built_to from meters
    where account_id = any(${sql.array([...accountIds], "text")}) and state <> 'deleted'
      and start_positions is not null
    order by account_id, id
    for share
  `);
}

const unfinishedRow = meterRow.extend({
  state: z.enum(["building", "deleted"]),
  start_positions: positions.nullable(),
  built_to: z.bigint(),
});

/** A meter that is to be built, or to be cleared away. */
export type UnfinishedMeter = z.infer<typeof unfinishedRow>;

/** Claim a meter on which there is work to do, behind the given id (empty: any). */
export function claimUnfinishedMeter(tx: Tx, after: string): Promise<UnfinishedMeter | null> {
  return tx.maybeOne(sql.type(unfinishedRow)`
    select ${meterColumns}, start_positions::text[] as start_positions, built_to from meters
    where state <> 'active' and id > ${after}
    order by id limit 1
    for update skip locked
  `);
}

const cursorRow = z.object({ shard: z.number(), position: z.bigint() });

/** Hold every projector, and say how far each has applied its shard. */
export function holdProjectors(tx: Tx): Promise<readonly z.infer<typeof cursorRow>[]> {
  return tx.any(sql.type(cursorRow)`
    select shard, position from projector_cursors order by shard for update
  `);
}

interface MeterKey {
  accountId: string;
  meterId: string;
}

/** Begin to build a meter: by shard, what is applied from here on is counted by the projector. */
export async function startMeter(
  tx: Tx,
  { accountId, meterId }: MeterKey,
  startPositions: readonly bigint[],
): Promise<void> {
  const starts = sql.array(startPositions.map(String), "int8");
  await tx.query(sql.type(nothing)`
    update meters set start_positions = ${starts}
    where account_id = ${accountId} and id = ${meterId}
  `);
}

/** Say how far what was there before a meter is counted. */
export async function updateBuilt(
  tx: Tx,
  { accountId, meterId }: MeterKey,
  { builtTo, isDone }: { builtTo: bigint; isDone: boolean },
): Promise<void> {
  await tx.query(sql.type(nothing)`
    update meters set built_to = ${builtTo}, state = ${isDone ? "active" : "building"}
    where account_id = ${accountId} and id = ${meterId}
  `);
}

/** Delete up to as many different values of a meter. True: there may be more. */
export async function deleteUniques(
  tx: Tx,
  { accountId, meterId }: MeterKey,
  limit: number,
): Promise<boolean> {
  const { rowCount } = await tx.query(sql.type(nothing)`
    delete from meter_uniques where ctid = any(array(
      select ctid from meter_uniques
      where account_id = ${accountId} and meter_id = ${meterId} limit ${limit}
    ))
  `);
  return rowCount === limit;
}

/** Delete up to as many sums of a meter. True: there may be more. */
export async function deleteRollups(
  tx: Tx,
  { accountId, meterId }: MeterKey,
  limit: number,
): Promise<boolean> {
  const { rowCount } = await tx.query(sql.type(nothing)`
    delete from meter_rollups where ctid = any(array(
      select ctid from meter_rollups
      where account_id = ${accountId} and meter_id = ${meterId} limit ${limit}
    ))
  `);
  return rowCount === limit;
}

/** Delete the groups of a meter. */
export async function deleteGroups(tx: Tx, { accountId, meterId }: MeterKey): Promise<void> {
  await tx.query(sql.type(nothing)`
    delete from meter_groups where account_id = ${accountId} and meter_id = ${meterId}
  `);
}

/** Forget what of a meter was to be counted anew. */
export async function deleteRecounts(tx: Tx, { accountId, meterId }: MeterKey): Promise<void> {
  await tx.query(sql.type(nothing)`
    delete from meter_recounts where account_id = ${accountId} and meter_id = ${meterId}
  `);
}

/** Keep the tables of events from being dropped until the transaction ends. */
export async function touchEvents(tx: Tx): Promise<void> {
  await tx.query(sql.type(nothing)`lock table usage_events in access share mode`);
}

/** Remove a deleted meter. */
export async function removeMeter(tx: Tx, { accountId, meterId }: MeterKey): Promise<void> {
  await tx.query(sql.type(nothing)`
    delete from meters where account_id = ${accountId} and id = ${meterId} and state = 'deleted'
  `);
}
