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
  const own = sql.fragment`account_id = ${accountId} and mode = ${mode}`;
  const row = await db.one(sql.type(sumsRow)`
    with moved as (
      select month = ${month} as is_own, granted_nanos as granted, given_nanos - taken_nanos as adjusted,
        expired_nanos as expired, refunded_nanos as refunded
      from credit_months where ${own} and month >= ${month}
    )
    select
      (
        (
          select coalesce(sum(credits_nanos - debits_nanos), 0) from ledger_accounts
          where ${own} and kind in ${ownKinds}
        ) - coalesce(sum(granted + adjusted - expired - refunded), 0) + (
          select coalesce(sum(charged_nanos + corrected_nanos), 0) from billing_lines
          where ${own} and booked_month >= ${month}
        )
      )::int8 as opening,
      coalesce(sum(granted) filter (where is_own), 0)::int8 as credited,
      coalesce(sum(expired) filter (where is_own), 0)::int8 as expired,
      coalesce(sum(refunded) filter (where is_own), 0)::int8 as refunded,
      coalesce(sum(adjusted) filter (where is_own), 0)::int8 as adjusted,
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
        (select min(month) from credit_months where ${own})
      )::date::timestamp,
      interval '-1 month'
    ) as series (month)
    left join invoices as invoice
      on invoice.account_id = ${accountId} and invoice.mode = ${mode} and invoice.month = series.month
    where invoice.id is not null
      or exists (select from billing_lines where ${own} and booked_month = series.month)
      or exists (select from credit_months where ${own} and month = series.month)
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

/** Insert an invoice. There is one for each account, month and mode: the first stays. */
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
    on conflict (account_id, mode, month) do nothing
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

/** Find the oldest month whose invoices are not all issued. Null: there is none. */
export function findRound(tx: Tx): Promise<RoundRow | null> {
  return tx.maybeOne(sql.type(roundRow)`
    select month::text as month, after_account from invoice_rounds
    where done_at is null order by month limit 1
  `);
}

/** Note how far a month's invoices are issued, from which account on. Nothing when another process was there first. */
export async function updateRound(
  tx: Tx,
  round: { month: string; from: string; after: string; doneAt: Date | null },
): Promise<void> {
  await tx.query(sql.type(nothing)`
    update invoice_rounds
    set after_account = ${round.after}, done_at = ${round.doneAt?.toISOString() ?? null}
    where month = ${round.month} and after_account = ${round.from} and done_at is null
  `);
}

/** A month, by its first day, of an account. */
export interface MonthOfAccount {
  accountId: string;
  month: string;
}

/** Note that an account's invoices of a month could not be issued, just now. */
export async function upsertRetry(tx: Tx, { accountId, month }: MonthOfAccount): Promise<void> {
  await tx.query(sql.type(nothing)`
    insert into invoice_retries (month, account_id, tried_at) values (${month}, ${accountId}, now())
    on conflict (month, account_id) do update set tried_at = excluded.tried_at
  `);
}

/** Note that an account's invoices of a month are issued after all. */
export async function deleteRetry(tx: Tx, { accountId, month }: MonthOfAccount): Promise<void> {
  await tx.query(sql.type(nothing)`
    delete from invoice_retries where month = ${month} and account_id = ${accountId}
  `);
}

const retryRow = z.object({ month: z.string(), account_id: z.string() });

/** List whose invoices could not be issued: those first that were tried the longest ago. */
export async function listRetries(tx: Tx, limit: number): Promise<MonthOfAccount[]> {
  const rows = await tx.any(sql.type(retryRow)`
    select month::text as month, account_id from invoice_retries order by tried_at limit ${limit}
  `);
  return rows.map(({ month, account_id: accountId }) => ({ month, accountId }));
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
