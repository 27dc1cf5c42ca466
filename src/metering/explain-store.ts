import { sql } from "slonik";
import { z } from "zod";
import type { Queries, Tx } from "../db/pool.ts";
import type { Mode } from "../ledger/store.ts";
import { eventByIdentity, type Identity } from "./by-identity.ts";
import { decodeRow } from "./codec.ts";
import type { Place, UsageEntry } from "./entry.ts";

const chargeRow = z.object({
  mode: z.enum(["live", "test"]),
  api_id: z.string(),
  developer_account_id: z.string(),
  status_code: z.number(),
  booked_month: z.string(),
  price_version: z.number(),
  fee_basis_points: z.number(),
  endpoint: z.string(),
  units: z.bigint(),
  outcome: z.number(),
  units_before: z.bigint(),
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
});

/** What an applied event was charged, and what paid for it. */
export type ChargeRow = z.infer<typeof chargeRow>;

/** Find the charge of one of the account's applied events. */
export function findCharge(tx: Queries, identity: Identity): Promise<ChargeRow | null> {
  return tx.maybeOne(sql.type(chargeRow)`
    select mode, api_id, developer_account_id, status_code, booked_month::text as booked_month,
      price_version, fee_basis_points, endpoint, units, outcome, units_before, charged_nanos, fee_nanos,
      leased_nanos, owed_nanos,
      charged_before_nanos, lease_id, shard, position, ordinal, batch_position
    from ${eventByIdentity(identity)} as event
  `);
}

const journalRow = z.object({ codec: z.number(), body: z.instanceof(Buffer) });

/** Read the usage that stands at a place of the journal. Null when the row is removed, or is something else. */
export async function readUsage(tx: Tx, { position, ordinal }: Place): Promise<UsageEntry | null> {
  const row = await tx.maybeOne(sql.type(journalRow)`
    select codec, body from usage_journal where position = ${position}
  `);
  const entry = row === null ? undefined : decodeRow(row).entries[ordinal];
  return entry?.kind === "usage" || entry?.kind === "replay" ? entry : null;
}

const priceRow = z.object({ call_nanos: z.bigint(), sheet: z.string() });

/** Find a version of an API's price. */
export function findPrice(
  tx: Tx,
  { developerId, apiId, version }: { developerId: string; apiId: string; version: number },
): Promise<z.infer<typeof priceRow> | null> {
  return tx.maybeOne(sql.type(priceRow)`
    select call_nanos, sheet from api_prices
    where account_id = ${developerId} and api_id = ${apiId} and version = ${version}
  `);
}

const burnedRow = z.object({ source_id: z.string(), nanos: z.bigint() });

/** The grants that a part of an account's charges burned, in that order. What no grant covers is in none. */
export function findBurned(
  tx: Tx,
  of: { accountId: string; mode: Mode; from: bigint; to: bigint },
): Promise<readonly z.infer<typeof burnedRow>[]> {
  const ofAccount = sql.fragment`account_id = ${of.accountId} and mode = ${of.mode}`;
  return tx.any(sql.type(burnedRow)`
    select grant_id as source_id,
      (least(to_nanos, ${of.to}) - greatest(from_nanos, ${of.from}))::int8 as nanos
    from grant_burns
    where ${ofAccount} and to_nanos > ${of.from} and from_nanos < ${of.to}
      and from_nanos >= coalesce((
        select max(from_nanos) from grant_burns where ${ofAccount} and from_nanos <= ${of.from}
      ), 0)
    order by from_nanos
  `);
}

const transferRow = z.object({
  id: z.string(),
  debit_kind: z.string(),
  credit_kind: z.string(),
  amount_nanos: z.bigint(),
});

/** A transfer of the account. */
export type TransferRow = z.infer<typeof transferRow>;

/** The account's transfers as the consumer of a batch. */
export function listBatchTransfers(
  tx: Tx,
  of: { accountId: string; mode: Mode; shard: number; position: bigint },
): Promise<readonly TransferRow[]> {
  return tx.any(sql.type(transferRow)`
    select id, debit_kind, credit_kind, amount_nanos from ledger_transfers
    where account_id = ${of.accountId} and mode = ${of.mode} and position = ${of.position}
      and source_type = 'usage' and source_id like ${`${of.shard}:%`} and credit_kind = 'clearing'
    order by id
  `);
}

const correctionRow = z.object({
  id: z.string(),
  is_void: z.boolean(),
  delta_nanos: z.bigint(),
  reason: z.string(),
  position: z.bigint(),
  created_at: z.number(),
});

/** A correction of an event. */
export type EventCorrectionRow = z.infer<typeof correctionRow>;

/** List what corrected an event, oldest first. */
export function listCorrections(
  tx: Tx,
  { accountId, position, ordinal }: Place & { accountId: string },
): Promise<readonly EventCorrectionRow[]> {
  return tx.any(sql.type(correctionRow)`
    select id, is_void, delta_nanos, reason, position, created_at from usage_corrections
    where account_id = ${accountId} and event_position = ${position}
      and event_ordinal = ${ordinal}
    order by position, ordinal
  `);
}

/** The account's transfers that corrections caused. */
export function listCorrectionTransfers(
  tx: Tx,
  { accountId, ids }: { accountId: string; ids: readonly string[] },
): Promise<readonly TransferRow[]> {
  return tx.any(sql.type(transferRow)`
    select id, debit_kind, credit_kind, amount_nanos from ledger_transfers
    where account_id = ${accountId} and source_type = 'correction'
      and source_id = any(${sql.array([...ids], "text")})
    order by id
  `);
}
