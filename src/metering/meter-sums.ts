import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Queries, type Tx } from "../db/pool.ts";
import { formatDecimal } from "../lib/decimal.ts";
import { timeText } from "./entry.ts";
import { otherGroupsKey, type Sums } from "./meter-fold.ts";

/** Groups that a meter keeps apart. What comes in others is counted together. */
export const groupsMax = 10_000;

/** Rows that one statement writes. */
const rowsMax = 5_000;

/** Whose sums of which quarter of an hour. */
export interface SumKey {
  accountId: string;
  meterId: string;
  mode: "live" | "test";
  groupKey: string;
  bucketMs: number;
}

/** The sums of one quarter of an hour and group. */
export interface MeterSum extends SumKey {
  sums: Sums;
}

/** A group that came in an event. */
export interface MeterGroup {
  accountId: string;
  meterId: string;
  groupKey: string;
  texts: readonly string[];
}

/** The types of what `sumKeyRow` makes. */
export const sumKeyTypes = ["text", "text", "text", "text", "timestamptz"];
const sumTypes = ["int8", "int8", "numeric", "numeric", "numeric", "text", "timestamptz", "int8"];

/** Add to the sums that are there. */
export async function addSums(tx: Tx, all: readonly MeterSum[]): Promise<void> {
  for (const sums of chunks(sorted(all))) {
    await tx.query(sql.type(nothing)`
      insert into meter_rollups as rollup (
        account_id, meter_id, mode, group_key, bucket, events, skipped, total, least, greatest,
        latest, latest_at, latest_position, latest_ordinal
      )
      select * from ${sql.unnest(sums.map(toRow), [...sumKeyTypes, ...sumTypes, "int4"])}
      on conflict (account_id, meter_id, mode, group_key, bucket) do update set
        events = rollup.events + excluded.events,
        skipped = rollup.skipped + excluded.skipped,
        total = coalesce(rollup.total + excluded.total, rollup.total, excluded.total),
        least = least(rollup.least, excluded.least),
        greatest = greatest(rollup.greatest, excluded.greatest),
        (latest, latest_at, latest_position, latest_ordinal) = (
          select latest, latest_at, latest_position, latest_ordinal
          from (values
            (rollup.latest, rollup.latest_at, rollup.latest_position, rollup.latest_ordinal),
            (excluded.latest, excluded.latest_at, excluded.latest_position, excluded.latest_ordinal)
          ) as candidates (latest, latest_at, latest_position, latest_ordinal)
          order by latest_at desc nulls last, latest_position desc, latest_ordinal desc limit 1
        )
    `);
  }
  await insertUniques(tx, all);
}

async function insertUniques(tx: Tx, all: readonly MeterSum[]): Promise<void> {
  const rows = sorted(all).flatMap((sum) =>
    [...sum.sums.uniques].sort().map((hash) => [...toKey(sum), hash]),
  );
  for (const chunk of chunks(rows)) {
    await tx.query(sql.type(nothing)`
      insert into meter_uniques (account_id, meter_id, mode, group_key, bucket, value_hash)
      select account_id, meter_id, mode, group_key, bucket, decode(hash, 'hex')
      from ${sql.unnest(chunk, [...sumKeyTypes, "text"])}
        as value (account_id, meter_id, mode, group_key, bucket, hash)
      on conflict do nothing
    `);
  }
}

const keyRow = z.object({ account_id: z.string(), meter_id: z.string(), group_key: z.string() });

/**
 * Tell which groups their meters keep apart. New ones are added while there is room.
 *
 * The answer holds `groupId` of those that are kept apart.
 */
export async function admitGroups(
  tx: Tx,
  groups: readonly MeterGroup[],
): Promise<ReadonlySet<string>> {
  const known = await findGroups(tx, groups);
  const unknown = groups.filter((group) => !known.has(groupId(group)));
  for (const ofOne of byMeter(unknown)) {
    await insertGroups(tx, ofOne);
  }
  const admitted = unknown.length === 0 ? known : await findGroups(tx, unknown);
  return new Set([...known, ...admitted]);
}

/** A group among all meters'. */
export function groupId(group: Omit<MeterGroup, "texts">): string {
  return `${group.accountId} ${group.meterId} ${group.groupKey}`;
}

/** Tell which groups their meters keep apart, by `groupId`. */
export async function findGroups(
  tx: Tx,
  groups: readonly MeterGroup[],
): Promise<ReadonlySet<string>> {
  const found = new Set<string>();
  for (const chunk of chunks(groups)) {
    const keys = chunk.map((group) => [group.accountId, group.meterId, group.groupKey]);
    const rows = await tx.any(sql.type(keyRow)`
      select account_id, meter_id, group_key from meter_groups
      where (account_id, meter_id, group_key)
        in (select * from ${sql.unnest(keys, ["text", "text", "text"])})
    `);
    for (const { account_id: accountId, meter_id: meterId, group_key: groupKey } of rows) {
      found.add(groupId({ accountId, meterId, groupKey }));
    }
  }
  return found;
}

/** By the lock on the meter's row, nobody else adds groups between the count and the insert. */
async function insertGroups(tx: Tx, groups: readonly [MeterGroup, ...MeterGroup[]]): Promise<void> {
  const [{ accountId, meterId, texts }] = groups;
  const { rowCount } = await tx.query(sql.type(nothing)`
    select from meters where account_id = ${accountId} and id = ${meterId} and state <> 'deleted'
    for no key update
  `);
  if (rowCount === 0) {
    // Whoever clears it away waits for projectors: they must not wait for it.
    return;
  }
  const rows = groups.map((group, index) => [group.groupKey, JSON.stringify(group.texts), index]);
  await tx.query(sql.type(nothing)`
    insert into meter_groups (account_id, meter_id, group_key, texts)
    select ${accountId}, ${meterId}, group_key, texts
    from ${sql.unnest(rows, ["text", "jsonb", "int4"])} as new (group_key, texts, ordinal)
    where not exists (
      select from meter_groups as known
      where known.account_id = ${accountId} and known.meter_id = ${meterId}
        and known.group_key = new.group_key
    )
    order by ordinal
    limit greatest(0, ${groupsMax} - (
      select count(*) from meter_groups
      where account_id = ${accountId} and meter_id = ${meterId} and group_key <> ${otherGroupsKey}
    ))
  `);
  const others = JSON.stringify(texts.map(() => otherGroupsKey));
  await tx.query(sql.type(nothing)`
    insert into meter_groups (account_id, meter_id, group_key, texts)
    values (${accountId}, ${meterId}, ${otherGroupsKey}, ${others}::jsonb)
    on conflict do nothing
  `);
}

const groupRow = z.object({ group_key: z.string(), texts: z.array(z.string()) });

/** List the groups that a meter keeps apart, and the one of the others. */
export function listGroups(
  db: Queries,
  { accountId, meterId }: { accountId: string; meterId: string },
): Promise<readonly z.infer<typeof groupRow>[]> {
  return db.any(sql.type(groupRow)`
    select group_key, texts from meter_groups
    where account_id = ${accountId} and meter_id = ${meterId}
    order by texts::text collate "C"
    limit ${groupsMax + 1}
  `);
}

function byMeter(groups: readonly MeterGroup[]): [MeterGroup, ...MeterGroup[]][] {
  const meters = new Map<string, [MeterGroup, ...MeterGroup[]]>();
  for (const group of groups) {
    const key = `${group.accountId} ${group.meterId}`;
    const list = meters.get(key);
    if (list === undefined) {
      meters.set(key, [group]);
    } else {
      list.push(group);
    }
  }
  return [...meters].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, list]) => list);
}

/** The key of a sum, for lists of rows. */
export function toKey({ accountId, meterId, mode, groupKey, bucketMs }: SumKey): string[] {
  return [accountId, meterId, mode, groupKey, new Date(bucketMs).toISOString()];
}

function toRow(sum: MeterSum): (string | number | null)[] {
  const { events, skipped, total, least, greatest, latest } = sum.sums;
  return [
    ...toKey(sum),
    events,
    skipped,
    decimalOf(total),
    decimalOf(least),
    decimalOf(greatest),
    decimalOf(latest?.value ?? null),
    latest === null ? null : timeText(latest.timeMicros),
    latest === null ? null : latest.position.toString(),
    latest?.ordinal ?? null,
  ];
}

/** A decimal times 10^18, for lists of rows. */
export function decimalOf(value: bigint | null): string | null {
  return value === null ? null : formatDecimal(value);
}

/** In one order, so that transactions that add to the same sums wait for each other, and not in a ring. */
export function sorted<T extends SumKey>(sums: readonly T[]): T[] {
  return sums
    .map((sum) => ({ sum, key: toKey(sum).join(" ") }))
    .sort((a, b) => (a.key < b.key ? -1 : 1))
    .map(({ sum }) => sum);
}

/** As many as one statement takes. */
export function* chunks<T>(list: readonly T[]): Iterable<T[]> {
  for (let start = 0; start < list.length; start += rowsMax) {
    yield list.slice(start, start + rowsMax);
  }
}
