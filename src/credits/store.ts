import { sql } from "slonik";
import { z } from "zod";
import type { Queries } from "../db/pool.ts";
import type { Mode } from "../ledger/store.ts";

const balanceRow = z.object({
  available_nanos: z.bigint(),
  reserved_nanos: z.bigint(),
  owed_nanos: z.bigint(),
  granted_nanos: z.bigint(),
  charged_nanos: z.bigint(),
});

/** What an account can spend, and what it ever got and spent. */
export type BalanceRow = z.infer<typeof balanceRow>;

/** Get an account's balance. All zero when nothing ever moved it. */
export function getBalance(db: Queries, accountId: string, mode: Mode): Promise<BalanceRow> {
  return db.one(sql.type(balanceRow)`
    with balance as (
      select kind, credits_nanos - debits_nanos as nanos from ledger_accounts
      where account_id = ${accountId} and mode = ${mode}
    ), moved as (
      select source_type, credit_kind, amount_nanos from ledger_transfers
      where account_id = ${accountId} and mode = ${mode} and ${isShown}
    )
    select
      coalesce((select nanos from balance where kind = 'consumer'), 0) as available_nanos,
      coalesce((select nanos from balance where kind = 'lease_escrow'), 0) as reserved_nanos,
      coalesce((select -nanos from balance where kind = 'consumer_receivable'), 0) as owed_nanos,
      coalesce(sum(amount_nanos) filter (
        where source_type in ('grant', 'purchase', 'adjustment') and credit_kind = 'consumer'
      ), 0)::int8 as granted_nanos,
      coalesce(sum(case credit_kind when 'clearing' then amount_nanos else -amount_nanos end) filter (
        where source_type in ('usage', 'correction')
      ), 0)::int8 as charged_nanos
    from moved
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

/** The transfers that a consumer sees. What leases set aside and give back is not among them. */
const isShown = sql.fragment`(
  source_type in (
    'grant', 'usage', 'purchase', 'expiry', 'refund', 'adjustment', 'debt_recovery', 'correction'
  ) and (
    debit_kind in ('consumer', 'lease_escrow', 'consumer_receivable')
    or credit_kind in ('consumer', 'consumer_receivable')
  )
)`;

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

/**
 * List what moved an account's balance, newest first. The balance after each is found from the present one, backwards:
 * what was before the page is not read.
 */
export function listTransactions(
  db: Queries,
  { accountId, mode, type, ...query }: TransactionQuery,
): Promise<readonly TransactionRow[]> {
  const [from, to] = [query.from?.toISOString() ?? null, query.to?.toISOString() ?? null];
  return db.any(sql.type(transactionRow)`
    with page as (
      select id, created_at, debit_kind, amount_nanos, source_type, source_id
      from ledger_transfers
      where account_id = ${accountId} and mode = ${mode} and ${isShown}
        and (${query.after} = '' or id < ${query.after})
        and (${type}::text is null or source_type = ${type})
        and (${from}::timestamptz is null or created_at >= ${from})
        and (${to}::timestamptz is null or created_at < ${to})
      order by id desc limit ${query.limit}
    ), present as (
      select coalesce(sum(credits_nanos - debits_nanos), 0) as nanos from ledger_accounts
      where account_id = ${accountId} and mode = ${mode} and kind in ('consumer', 'lease_escrow')
    ), later as (
      select id, sum(
        case
          when credit_kind = 'consumer' then amount_nanos
          when debit_kind in ('consumer', 'lease_escrow') then -amount_nanos
          else 0
        end
      ) over (order by id desc rows between unbounded preceding and 1 preceding) as nanos
      from ledger_transfers
      where account_id = ${accountId} and mode = ${mode} and ${isShown}
        and id >= (select min(id) from page)
    )
    select page.id, page.created_at, debit_kind, page.amount_nanos,
      (present.nanos - coalesce(later.nanos, 0))::int8 as balance_nanos, source_type, source_id,
      coalesce(credit.id, '') as grant_id,
      coalesce(taken.note, credit.note, '') as description
    from page join later using (id) cross join present
    left join credit_grants as credit on credit.account_id = ${accountId}
      and source_type in ('grant', 'purchase', 'expiry', 'adjustment', 'debt_recovery')
      and credit.id = split_part(source_id, ':', 1)
    left join credit_returns as taken on taken.account_id = ${accountId}
      and source_type in ('refund', 'adjustment') and taken.id = source_id
    order by page.id desc
  `);
}
