import { sql } from "slonik";
import { z } from "zod";
import type { Tx } from "../db/pool.ts";

/** Entries that are rated again at a time. */
const entriesMax = 5_000;
const rowsMax = 500;

const bytes = z.instanceof(Buffer);
const mode = z.enum(["live", "test"]);

const journalRow = z.object({
  position: z.bigint(),
  shard: z.number(),
  codec: z.number(),
  body: bytes,
  received_month: z.string(),
  appended_at: z.number(),
});

/** A row of the journal, with the month that it was received in. */
export type JournalRowRead = z.infer<typeof journalRow>;

/** Read the next rows of all shards, in the journal's order: at most 5,000 entries, at least a row. */
export function readJournal(
  tx: Tx,
  { after, upTo }: { after: bigint; upTo: bigint },
): Promise<readonly JournalRowRead[]> {
  return tx.any(sql.type(journalRow)`
    select position, shard, codec, body, appended_at,
      date_trunc('month', appended_at at time zone 'UTC')::date::text as received_month
    from usage_journal
    where position in (
      select position from (
        select position, row_number() over ahead as rows, sum(entries) over ahead as entries
        from (
          select position, entries from usage_journal
          where position > ${after} and position <= ${upTo}
          order by position limit ${rowsMax}
        ) as following
        window ahead as (order by position)
      ) as counted
      where rows = 1 or entries <= ${entriesMax}
    )
    order by position
  `);
}

const cursorRow = z.object({ shard: z.number(), position: z.bigint() });

/** How far each shard is applied. */
export async function readCursors(tx: Tx): Promise<Map<number, bigint>> {
  const rows = await tx.any(sql.type(cursorRow)`select shard, position from projector_cursors`);
  return new Map(rows.map(({ shard, position }) => [shard, position]));
}

const storedRow = z.object({
  account_id: z.string(),
  received_month: z.string(),
  key: z.string(),
  source: z.string(),
  id: z.string(),
  mode,
  api_id: z.string(),
  developer_account_id: z.string(),
  key_id: z.string().nullable(),
  endpoint: z.string(),
  status_code: z.number(),
  occurred_micros: z.bigint(),
  received_at: z.number(),
  booked_month: z.string(),
  price_version: z.number(),
  fee_basis_points: z.number(),
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
  body_hash: bytes,
  data: z.string(),
});

/** An applied event, as it is stored. */
export type StoredEvent = z.infer<typeof storedRow>;

/** An identity, and the month that the journal received it in. */
export interface Received {
  account: string;
  key: string;
  month: string;
}

const storedColumns = sql.fragment`
  event.account_id, event.received_month::text, event.key, event.source, event.id, event.mode,
  event.api_id, event.developer_account_id, event.key_id, event.endpoint, event.status_code,
  (extract(epoch from event.occurred_at) * 1000000)::int8 as occurred_micros,
  event.received_at, event.booked_month::text, event.price_version, event.fee_basis_points, event.units,
  event.outcome, event.units_before,
  event.charged_nanos, event.fee_nanos, event.leased_nanos, event.owed_nanos,
  event.charged_before_nanos, event.lease_id, event.shard, event.position, event.ordinal,
  event.batch_position, event.body_hash, event.data
`;

/** Find the events that have one of the identities, of the month itself, the two before or the one after. */
export function findHolders(
  tx: Tx,
  identities: readonly Received[],
): Promise<readonly StoredEvent[]> {
  const rows = identities.map(({ account, key, month }) => [account, key, month]);
  return tx.any(sql.type(storedRow)`
    select ${storedColumns}
    from (
      select distinct account_id, key collate "C" as key, (month - ago * interval '1 month')::date as month
      from ${sql.unnest(rows, ["text", "text", "date"])} as asked (account_id, key, month)
      cross join generate_series(-1, 2) as ago
    ) as wanted
    cross join lateral (
      select * from usage_events
      where account_id = wanted.account_id and received_month = wanted.month
        and key = wanted.key
      -- One at most. The limit keeps this a look-up of each: a plan that reads whole months is never better.
      limit 1
    ) as event
  `);
}

/** Find the events, of any month, that have one of the identities. */
export function findHoldersEver(
  tx: Tx,
  identities: readonly Omit<Received, "month">[],
): Promise<readonly StoredEvent[]> {
  const rows = identities.map(({ account, key }) => [account, key]);
  return tx.any(sql.type(storedRow)`
    select ${storedColumns}
    from (
      select distinct account_id, key collate "C" as key
      from ${sql.unnest(rows, ["text", "text"])} as asked (account_id, key)
    ) as wanted
    cross join lateral (
      select * from usage_events where account_id = wanted.account_id and key = wanted.key limit 100
    ) as event
  `);
}

const quarantinedRow = z.object({
  position: z.bigint(),
  ordinal: z.number(),
  account_id: z.string(),
  mode,
  reason: z.string(),
  raw: bytes.nullable(),
  charged_nanos: z.bigint(),
});

/** An entry that is kept aside. */
export type QuarantinedRow = z.infer<typeof quarantinedRow>;

/** The entries of a range of the journal that are kept aside. */
export function readQuarantined(
  tx: Tx,
  { first, last }: { first: bigint; last: bigint },
): Promise<readonly QuarantinedRow[]> {
  return tx.any(sql.type(quarantinedRow)`
    select position, ordinal, account_id, mode, reason, raw, charged_nanos from usage_quarantine
    where shard in (select shard from projector_cursors)
      and position >= ${first} and position <= ${last}
    order by position, ordinal
  `);
}

const replayedRow = z.object({
  position: z.bigint(),
  ordinal: z.number(),
  replay_position: z.bigint().nullable(),
});

/** An entry that was kept aside and came back. */
export type ReplayedRow = z.infer<typeof replayedRow>;

/** Find, of some places, the entries in quarantine that were replayed. */
export function findReplayed(
  tx: Tx,
  places: readonly { position: bigint; ordinal: number }[],
): Promise<readonly ReplayedRow[]> {
  const rows = places.map(({ position, ordinal }) => [position.toString(), ordinal]);
  return tx.any(sql.type(replayedRow)`
    select position, ordinal, replay_position from usage_quarantine
    where shard in (select shard from projector_cursors) and state = 'replayed'
      and (position, ordinal) in (select * from ${sql.unnest(rows, ["int8", "int4"])})
  `);
}

const correctionRow = z.object({
  account_id: z.string(),
  id: z.string(),
  is_void: z.boolean(),
  reason: z.string(),
  delta_nanos: z.bigint(),
  delta_fee_nanos: z.bigint(),
  position: z.bigint(),
  ordinal: z.number(),
  mode,
  /** The event. Null once it is removed, and what follows of it, too. */
  source: z.string().nullable(),
  event_id: z.string().nullable(),
  /** What the event was charged, and the platform's share of it, with the corrections before this one. */
  charged_then: z.bigint().nullable(),
  fee_then: z.bigint().nullable(),
  charged_first: z.bigint().nullable(),
  fee_first: z.bigint().nullable(),
  fee_basis_points: z.number().nullable(),
  /** Whether an event of its place may be removed. */
  is_old: z.boolean(),
});

/** A correction that was applied, with what it corrected. */
export type CorrectionRow = z.infer<typeof correctionRow>;

/** Find applied corrections by account and id. */
export function findCorrections(
  tx: Tx,
  named: readonly { account: string; id: string }[],
): Promise<readonly CorrectionRow[]> {
  const rows = named.map(({ account, id }) => [account, id]);
  return tx.any(sql.type(correctionRow)`
    select done.account_id, done.id, done.is_void, done.reason, done.delta_nanos, done.delta_fee_nanos,
      done.position, done.ordinal, done.mode, event.source, event.id as event_id,
      event.charged_nanos + before.delta as charged_then, event.fee_nanos + before.fee as fee_then,
      event.charged_nanos as charged_first, event.fee_nanos as fee_first, event.fee_basis_points,
      done.event_position <= (
        select coalesce(max(last_position), 0) from usage_partition_totals
      ) as is_old
    from usage_corrections as done
    left join usage_events as event on event.account_id = done.account_id
      and event.position = done.event_position and event.ordinal = done.event_ordinal
    cross join lateral (
      select coalesce(sum(earlier.delta_nanos), 0)::int8 as delta,
        coalesce(sum(earlier.delta_fee_nanos), 0)::int8 as fee
      from usage_corrections as earlier
      where earlier.account_id = done.account_id
        and earlier.event_position = done.event_position
        and earlier.event_ordinal = done.event_ordinal
        and (earlier.position, earlier.ordinal) < (done.position, done.ordinal)
    ) as before
    where (done.account_id, done.id) in (select * from ${sql.unnest(rows, ["text", "text"])})
  `);
}

const projectionRow = z.object({
  shard: z.number(),
  first_position: z.bigint(),
  last_position: z.bigint(),
  events: z.number(),
  duplicates: z.number(),
  conflicts: z.number(),
  quarantined: z.number(),
  charged_live_nanos: z.bigint(),
  charged_test_nanos: z.bigint(),
  fee_nanos: z.bigint(),
  rating_hash: bytes,
});

/** What was applied together, and what came of it. */
export type ProjectionRow = z.infer<typeof projectionRow>;

/** The projections that end within a range of the journal or are the next after it, by shard and position. */
export function readProjections(
  tx: Tx,
  { first, last }: { first: bigint; last: bigint },
): Promise<readonly ProjectionRow[]> {
  return tx.any(sql.type(projectionRow)`
    select shard, first_position, last_position, events, duplicates, conflicts, quarantined,
      charged_live_nanos, charged_test_nanos, fee_nanos, rating_hash
    from projections
    where shard in (select shard from projector_cursors)
      and last_position >= ${first} and first_position <= ${last}
    order by shard, last_position
  `);
}

const transferRow = z.object({
  account_id: z.string(),
  mode,
  position: z.bigint(),
  debit_kind: z.string(),
  credit_kind: z.string(),
  source_id: z.string(),
  amount_nanos: z.bigint(),
});

/** A transfer of usage. */
export type UsageTransferRow = z.infer<typeof transferRow>;

/** The transfers of usage that count from a position, for each account and position asked for. */
export function findUsageTransfers(
  tx: Tx,
  asked: readonly { account: string; position: bigint }[],
): Promise<readonly UsageTransferRow[]> {
  const rows = asked.map(({ account, position }) => [account, position.toString()]);
  return tx.any(sql.type(transferRow)`
    select transfer.account_id, transfer.mode, transfer.position, transfer.debit_kind,
      transfer.credit_kind, transfer.source_id, transfer.amount_nanos
    from (
      select distinct account_id, position
      from ${sql.unnest(rows, ["text", "int8"])} as asked (account_id, position)
    ) as wanted
    join ledger_transfers as transfer
      on transfer.account_id = wanted.account_id and transfer.mode in ('live', 'test')
      and transfer.position = wanted.position and transfer.source_type = 'usage'
  `);
}
