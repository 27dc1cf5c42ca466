import { sql } from "slonik";
import { z } from "zod";
import type { Queries } from "../db/pool.ts";
import type { Mode } from "../ledger/store.ts";
import { firstId } from "../lib/id.ts";

const balanceRow = z.object({
  available_nanos: z.bigint(),
  reserved_nanos: z.bigint(),
  owed_nanos: z.bigint(),
  granted_nanos: z.bigint(),
  charged_nanos: z.bigint(),
});

/** What an account can spend, and what it ever got and spent. */
export type BalanceRow = z.infer<typeof balanceRow>;

/** Get an account's balance. All zero when nothing ever moved it. It reads running totals alone: no history. */
export function getBalance(db: Queries, accountId: string, mode: Mode): Promise<BalanceRow> {
  const own = sql.fragment`account_id = ${accountId} and mode = ${mode}`;
  return db.one(sql.type(balanceRow)`
    with balance as (
      select kind, credits_nanos - debits_nanos as nanos from ledger_accounts where ${own}
    )
    select
      coalesce((select nanos from balance where kind = 'consumer'), 0) as available_nanos,
      coalesce((select nanos from balance where kind = 'lease_escrow'), 0) as reserved_nanos,
      coalesce((select -nanos from balance where kind = 'consumer_receivable'), 0) as owed_nanos,
      (
        select coalesce(sum(granted_nanos + given_nanos), 0)::int8 from credit_months where ${own}
      ) as granted_nanos,
      coalesce((
        select charged_nanos + corrected_nanos from charge_totals where ${own}
      ), 0) as charged_nanos
  `);
}

/** What a transaction comes from. */
export type SourceType =
  | "grant"
  | "usage"
  | "purchase"
  | "expiry"
  | "refund"
  | "adjustment"
  | "debt_recovery"
  | "correction";

const transactionRow = z.object({
  id: z.string(),
  created_at: z.number(),
  debit_kind: z.string(),
  amount_nanos: z.bigint(),
  balance_nanos: z.bigint(),
  source_type: z.string(),
  source_id: z.string(),
  grant_id: z.string(),
  description: z.string(),
});

/** A transfer that a consumer sees. */
export type TransactionRow = z.infer<typeof transactionRow>;

/** Which of an account's transfers to list: before the given id (empty: from the newest). Null: all. */
export interface TransactionQuery {
  accountId: string;
  mode: Mode;
  type: SourceType | null;
  from: Date | null;
  to: Date | null;
  after: string;
  limit: number;
}

/** List what moved an account's balance, newest first. Ids are in the order of time. */
export function listTransactions(
  db: Queries,
  { accountId, mode, type, ...query }: TransactionQuery,
): Promise<readonly TransactionRow[]> {
  const [first, last] = [query.from, query.to].map((at) => at && firstId("trf", at));
  const ofType = type === null ? sql.fragment`true` : sql.fragment`source_type = ${type}`;
  return db.any(sql.type(transactionRow)`
    with page as (
      select id, created_at, debit_kind, amount_nanos, balance_nanos, source_type, source_id
      from ledger_transfers
      where account_id = ${accountId} and mode = ${mode} and balance_nanos is not null
        and ${ofType}
        and (${query.after} = '' or id < ${query.after})
        and (${first ?? null}::text is null or id >= ${first ?? null})
        and (${last ?? null}::text is null or id < ${last ?? null})
      order by id desc limit ${query.limit}
    )
    select page.id, page.created_at, debit_kind, page.amount_nanos, balance_nanos, source_type,
      source_id, coalesce(credit.id, '') as grant_id,
      coalesce(taken.note, credit.note, '') as description
    from page
    left join credit_grants as credit on credit.account_id = ${accountId}
      and source_type in ('grant', 'purchase', 'expiry', 'adjustment', 'debt_recovery')
      and credit.id = split_part(source_id, ':', 1)
    left join credit_returns as taken on taken.account_id = ${accountId}
      and source_type in ('refund', 'adjustment') and taken.id = source_id
    order by page.id desc
  `);
}
