import { sql } from "slonik";
import { z } from "zod";
import type { Queries } from "../db/pool.ts";
import type { Mode } from "../ledger/store.ts";

const balanceRow = z.object({
  available_nanos: z.bigint(),
  reserved_nanos: z.bigint(),
  granted_nanos: z.bigint(),
  charged_nanos: z.bigint(),
});

/** What an account can spend, and what it ever got and spent. */
export type BalanceRow = z.infer<typeof balanceRow>;

/** Get an account's balance. All zero when nothing ever moved it. */
export function getBalance(db: Queries, accountId: string, mode: Mode): Promise<BalanceRow> {
  return db.one(sql.type(balanceRow)`
    select
      coalesce(max(balance.available_nanos), 0)::int8 as available_nanos,
      coalesce(max(balance.reserved_nanos), 0)::int8 as reserved_nanos,
      coalesce(sum(amount_nanos) filter (where credit_kind = 'consumer'), 0)::int8 as granted_nanos,
      coalesce(sum(amount_nanos) filter (where credit_kind = 'clearing'), 0)::int8 as charged_nanos
    from (values (${accountId}, ${mode})) as asked (account_id, mode)
    left join credit_balances as balance using (account_id, mode)
    left join ledger_transfers as transfer on transfer.account_id = asked.account_id
      and transfer.mode = asked.mode and ${ofBalance}
  `);
}

/** The transfers that a consumer sees: what came in from others, and what was charged. */
const ofBalance = sql.fragment`(
  (transfer.debit_kind = 'clearing' and transfer.credit_kind = 'consumer')
  or (
    transfer.debit_kind in ('consumer', 'lease_escrow', 'consumer_receivable')
    and transfer.credit_kind = 'clearing'
  )
)`;

const transactionRow = z.object({
  id: z.string(),
  created_at: z.number(),
  credit_kind: z.string(),
  amount_nanos: z.bigint(),
  source_type: z.string(),
  source_id: z.string(),
});

/** A transfer that a consumer sees. */
export type TransactionRow = z.infer<typeof transactionRow>;

/** List what moved an account's balance, newest first, before the given id (empty: from the newest). */
export function listTransactions(
  db: Queries,
  query: { accountId: string; mode: Mode; after: string; limit: number },
): Promise<readonly TransactionRow[]> {
  return db.any(sql.type(transactionRow)`
    select id, created_at, credit_kind, amount_nanos, source_type, source_id
    from ledger_transfers as transfer
    where account_id = ${query.accountId} and mode = ${query.mode} and ${ofBalance}
      and (${query.after} = '' or id < ${query.after})
    order by id desc limit ${query.limit}
  `);
}
