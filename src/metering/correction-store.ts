import { sql } from "slonik";
import { z } from "zod";
import { outcomes } from "../catalog/price-rule.ts";
import { nothing, type Queries, type Tx } from "../db/pool.ts";
import type { Applied, Corrected } from "./applied-event.ts";
import { eventByIdentity } from "./by-identity.ts";
import { bucketMicrosOf, identityKey, type Place, timeText } from "./entry.ts";

const targetRow = z.object({
  account_id: z.string(),
  source: z.string(),
  id: z.string(),
  mode: z.enum(["live", "test"]),
  api_id: z.string(),
  developer_account_id: z.string(),
  key_id: z.string().nullable(),
  endpoint: z.string(),
  status_code: z.number(),
  time_micros: z.bigint(),
  received_at: z.number(),
  booked_month: z.string(),
  price_version: z.number(),
  fee_basis_points: z.number(),
  units: z.bigint(),
  charged_nanos: z.bigint(),
  fee_nanos: z.bigint(),
  leased_nanos: z.bigint(),
  owed_nanos: z.bigint(),
  charged_before_nanos: z.bigint(),
  lease_id: z.string().nullable(),
  shard: z.number(),
  position: z.bigint(),
  ordinal: z.number(),
  batch_position: z.bigint(),
  data: z.string(),
  outcome: z.number(),
  units_before: z.bigint(),
});

/** Find the applied event that a correction names. */
export async function findTarget(
  db: Queries,
  { account, source, id }: { account: string; source: string; id: string },
): Promise<Applied | null> {
  const row = await db.maybeOne(sql.type(targetRow)`
    select account_id, source, id, mode, api_id, developer_account_id, key_id, endpoint,
      status_code, (extract(epoch from occurred_at) * 1000000)::int8 as time_micros, received_at,
      booked_month::text as booked_month, price_version, fee_basis_points, units, charged_nanos,
      fee_nanos, leased_nanos, owed_nanos, charged_before_nanos, lease_id, shard, position,
      ordinal, batch_position, data, outcome, units_before
    from ${eventByIdentity({ accountId: account, source, id })} as event
  `);
  return row === null ? null : toApplied(row);
}

function toApplied(row: z.infer<typeof targetRow>): Applied {
  return {
    place: { position: row.position, ordinal: row.ordinal },
    batchPosition: row.batch_position,
    shard: row.shard,
    entry: {
      kind: "usage",
      account: row.account_id,
      source: row.source,
      id: row.id,
      price: {
        apiId: row.api_id,
        developerId: row.developer_account_id,
        version: row.price_version,
        unitNanos: row.charged_nanos / row.units,
        feeBasisPoints: row.fee_basis_points,
        rule: "",
      },
      endpoint: row.endpoint,
      status: row.status_code,
      timeMicros: row.time_micros,
      timeUnset: false,
      mode: row.mode,
      data: row.data,
      units: row.units,
      chargedNanos: row.charged_nanos,
      lease: row.lease_id,
      keyId: row.key_id,
      requestId: "",
      replays: null,
      outcome: outcomes[row.outcome] ?? "whole",
      unitsBefore: row.units_before,
      keptHash: null,
    },
    receivedAt: new Date(row.received_at),
    bookedMonth: row.booked_month,
    feeNanos: row.fee_nanos,
    leasedNanos: row.leased_nanos,
    owedNanos: row.owed_nanos,
    chargedBefore: row.charged_before_nanos,
  };
}

const sumRow = z.object({
  delta_nanos: z.bigint(),
  delta_fee_nanos: z.bigint(),
  is_voided: z.boolean(),
});

/** What applied corrections of an event come to, and whether one took it back. */
export async function sumCorrections(
  db: Queries,
  { accountId, place }: { accountId: string; place: Place },
): Promise<{ deltaNanos: bigint; deltaFeeNanos: bigint; isVoided: boolean }> {
  const row = await db.one(sql.type(sumRow)`
    select coalesce(sum(delta_nanos), 0)::int8 as delta_nanos,
      coalesce(sum(delta_fee_nanos), 0)::int8 as delta_fee_nanos,
      coalesce(bool_or(is_void), false) as is_voided
    from usage_corrections
    where account_id = ${accountId} and event_position = ${place.position}
      and event_ordinal = ${place.ordinal}
  `);
  return {
    deltaNanos: row.delta_nanos,
    deltaFeeNanos: row.delta_fee_nanos,
    isVoided: row.is_voided,
  };
}

/** Insert an applied correction. */
export async function insertCorrection(
  tx: Tx,
  corrected: Corrected,
  { reason, shard, now }: { reason: string; shard: number; now: Date },
): Promise<void> {
  const { place, target } = corrected;
  const { entry } = target;
  await tx.query(sql.type(nothing)`
    insert into usage_corrections (
      account_id, id, event_key, event_position, event_ordinal, is_void, mode,
      developer_account_id, api_id, bucket, booked_month, delta_nanos, delta_fee_nanos, reason,
      shard, position, ordinal, created_at
    )
    values (
      ${entry.account}, ${corrected.id}, ${identityKey(entry.source, entry.id)},
      ${target.place.position}, ${target.place.ordinal}, ${corrected.isVoid}, ${entry.mode},
      ${entry.price.developerId}, ${entry.price.apiId}, ${timeText(bucketMicrosOf(entry.timeMicros))},
      ${corrected.bookedMonth}, ${corrected.deltaNanos}, ${corrected.deltaFeeNanos}, ${reason},
      ${shard}, ${place.position}, ${place.ordinal}, ${now.toISOString()}
    )
  `);
}

/** Add an applied correction to what its account was charged. */
export async function addCorrectedTotal(
  tx: Tx,
  { target: { entry }, deltaNanos }: Corrected,
): Promise<void> {
  await tx.query(sql.type(nothing)`
    insert into charge_totals as total (account_id, mode, corrected_nanos)
    values (${entry.account}, ${entry.mode}, ${deltaNanos})
    on conflict (account_id, mode) do update
    set corrected_nanos = total.corrected_nanos + excluded.corrected_nanos
  `);
}

/** Set what an account may owe. */
export async function upsertDebtLimit(
  tx: Tx,
  { accountId, limitNanos, now }: { accountId: string; limitNanos: bigint; now: Date },
): Promise<void> {
  await tx.query(sql.type(nothing)`
    insert into debt_limits (account_id, limit_nanos, updated_at)
    values (${accountId}, ${limitNanos}, ${now.toISOString()})
    on conflict (account_id) do update set
      limit_nanos = excluded.limit_nanos, updated_at = excluded.updated_at
  `);
}
