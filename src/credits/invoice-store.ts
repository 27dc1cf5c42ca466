import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Queries, type Tx } from "../db/pool.ts";
import type { Mode } from "../ledger/store.ts";
import type { MonthSums } from "./invoice.ts";

/** Whose invoices. */
export interface Billed {
  accountId: string;
  mode: Mode;
}

/** What a consumer has, less what the consumer owes. */
const ownKinds = sql.fragment`('consumer', 'lease_escrow', 'consumer_receivable')`;

/** What charges a consumer is in the lines of bills. Leases move nothing from or to others. */
const notByCharge = sql.fragment`source_type not in ('usage', 'correction', 'lease', 'lease_return')`;

/** When a month begins that is so many after another one. */
function beginOf(month: string, after: number) {
  return sql.fragment`((${month}::date + ${after}::int4 * interval '1 month') at time zone 'UTC')`;
}

const sumsRow = z.object({
  opening: z.bigint(),
  credited: z.bigint(),
  expired: z.bigint(),
  refunded: z.bigint(),
  adjusted: z.bigint(),
  has_moved: z.boolean(),
});

/**
 * What moved an account's balance in a month, which is given by its first day.
 *
 * What it began with is found from the present balance backwards, by what is billed in which month: so each month
 * begins with what the one before ended with, whenever its charges came into the ledger. All in one statement, which
 * sees one state.
 */
export async function readMonthSums(
  db: Queries,
  { accountId, mode, month }: Billed & { month: string },
): Promise<MonthSums> {
  const row = await db.one(sql.type(sumsRow)`
    with moved as (
      select source_type, created_at < ${beginOf(month, 1)} as is_own,
        case when credit_kind in ${ownKinds} then amount_nanos else 0 end
          - case when debit_kind in ${ownKinds} then amount_nanos else 0 end as net
      from ledger_transfers
      where account_id = ${accountId} and mode = ${mode}
        and created_at >= ${beginOf(month, 0)} and ${notByCharge}
        and (debit_kind in ${ownKinds} or credit_kind in ${ownKinds})
    )
    select
      (
        (
          select coalesce(sum(credits_nanos - debits_nanos), 0) from ledger_accounts
          where account_id = ${accountId} and mode = ${mode} and kind in ${ownKinds}
        ) - coalesce(sum(net), 0) + (
          select coalesce(sum(charged_nanos + corrected_nanos), 0) from billing_lines
          where account_id = ${accountId} and mode = ${mode} and booked_month >= ${month}
        )
      )::int8 as opening,
      coalesce(sum(net) filter (
        where is_own and source_type not in ('expiry', 'refund', 'adjustment')
      ), 0)::int8 as credited,
      coalesce(-sum(net) filter (where is_own and source_type = 'expiry'), 0)::int8 as expired,
      coalesce(-sum(net) filter (where is_own and source_type = 'refund'), 0)::int8 as refunded,
      coalesce(sum(net) filter (where is_own and source_type = 'adjustment'), 0)::int8 as adjusted,
      coalesce(bool_or(is_own), false) as has_moved
    from moved
  `);
  return {
    openingNanos: row.opening,
    creditedNanos: row.credited,
    expiredNanos: row.expired,
    refundedNanos: row.refunded,
    adjustedNanos: row.adjusted,
    hasMoved: row.has_moved,
  };
}

const monthRow = z.object({ month: z.string(), content: z.string() });

/** A month in which something moved or was billed, and its invoice as JSON. Empty: it is not issued. */
export type MonthRow = z.infer<typeof monthRow>;

/**
 * List the months of an account in which anything was issued, billed or moved, by their first days: from the one that
 * is given down, the newest first.
 */
export function listMonths(
  db: Queries,
  { accountId, mode, from, limit }: Billed & { from: string; limit: number },
): Promise<readonly MonthRow[]> {
  const own = sql.fragment`account_id = ${accountId} and mode = ${mode}`;
  return db.any(sql.type(monthRow)`
    select series.month::date::text as month, coalesce(invoice.content, '') as content
    from generate_series(
      ${from}::date::timestamp,
      least(
        (select min(booked_month) from billing_lines where ${own}),
        (select min(month) from invoices where ${own}),
        (
          select date_trunc('month', min(created_at) at time zone 'UTC') from ledger_transfers
          where ${own}
        )
      )::date::timestamp,
      interval '-1 month'
    ) as series (month)
    left join invoices as invoice
      on invoice.account_id = ${accountId} and invoice.mode = ${mode} and invoice.month = series.month
    where invoice.id is not null
      or exists (select from billing_lines where ${own} and booked_month = series.month)
      or exists (
        select from ledger_transfers
        where ${own} and ${notByCharge}
          and created_at >= series.month at time zone 'UTC'
          and created_at < (series.month + interval '1 month') at time zone 'UTC'
          and (debit_kind in ${ownKinds} or credit_kind in ${ownKinds})
      )
    order by series.month desc limit ${limit}
  `);
}

const contentRow = z.object({ content: z.string() });

/** Find the invoice of a month that was issued, as JSON. Null: there is none. */
export async function findIssued(
  db: Queries,
  { accountId, mode, month }: Billed & { month: string },
): Promise<string | null> {
  const row = await db.maybeOne(sql.type(contentRow)`
    select content from invoices
    where account_id = ${accountId} and mode = ${mode} and month = ${month}
  `);
  return row?.content ?? null;
}

/** Insert an invoice. There is one for each account, month and mode. */
export async function insertInvoice(
  tx: Tx,
  invoice: Billed & {
    id: string;
    number: string;
    month: string;
    content: string;
    chargedNanos: bigint;
    now: Date;
  },
): Promise<void> {
  await tx.query(sql.type(nothing)`
    insert into invoices (
      account_id, id, number, mode, month, content, charged_nanos, issued_at
    )
    values (
      ${invoice.accountId}, ${invoice.id}, ${invoice.number}, ${invoice.mode}, ${invoice.month},
      ${invoice.content}, ${invoice.chargedNanos}, ${invoice.now.toISOString()}
    )
  `);
}

const roundRow = z.object({ month: z.string(), after_account: z.string() });

/** A month whose invoices are being issued, and the account that came last. */
export type RoundRow = z.infer<typeof roundRow>;

/** Begin to issue the invoices of months, if nobody has. */
export async function insertRounds(tx: Tx, months: readonly string[]): Promise<void> {
  await tx.query(sql.type(nothing)`
    insert into invoice_rounds (month)
    select month from unnest(${sql.array([...months], "date")}) as closed (month)
    on conflict do nothing
  `);
}

/** Lock the oldest month whose invoices are not all issued. Null: there is none, or another process is at it. */
export function lockRound(tx: Tx): Promise<RoundRow | null> {
  return tx.maybeOne(sql.type(roundRow)`
    select month::text as month, after_account from invoice_rounds
    where month = (select min(month) from invoice_rounds where done_at is null)
    for update skip locked
  `);
}

/** Note how far a month's invoices are issued. */
export async function updateRound(
  tx: Tx,
  { month, after, doneAt }: { month: string; after: string; doneAt: Date | null },
): Promise<void> {
  await tx.query(sql.type(nothing)`
    update invoice_rounds set after_account = ${after}, done_at = ${doneAt?.toISOString() ?? null}
    where month = ${month}
  `);
}

const consumerRow = z.object({ account_id: z.string() });

/** List accounts that ever had or owed credit, or were billed, in the order of their ids. */
export async function listConsumers(
  tx: Tx,
  { after, limit }: { after: string; limit: number },
): Promise<readonly string[]> {
  const rows = await tx.any(sql.type(consumerRow)`
    select distinct account_id from (
      (
        select account_id from ledger_accounts
        where account_id > ${after} and kind in ${ownKinds}
        group by account_id order by account_id limit ${limit}
      )
      union all
      (
        select account_id from billing_lines where account_id > ${after}
        group by account_id order by account_id limit ${limit}
      )
    ) as found
    order by account_id limit ${limit}
  `);
  return rows.map(({ account_id }) => account_id);
}
