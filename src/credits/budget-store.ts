import { sql } from "slonik";
import { z } from "zod";
import type { Queries, Tx } from "../db/pool.ts";
import type { Mode } from "../ledger/store.ts";
import { periodStart } from "./budget-periods.ts";

const budgetRow = z.object({
  id: z.string(),
  created_at: z.number(),
  updated_at: z.number(),
  scope: z.enum(["account", "member", "key"]),
  subject_id: z.string(),
  period: z.enum(["total", "day", "month"]),
  mode: z.enum(["live", "test"]),
  limit_nanos: z.bigint(),
  taken_nanos: z.bigint(),
  /** Milliseconds since 1970. Means nothing for a budget without periods. */
  period_start_ms: z.bigint(),
});

/** A budget, and what is taken of its present period. */
export type BudgetRow = z.infer<typeof budgetRow>;

const present = sql.fragment`
  select budget.*, coalesce(taken_nanos, 0) as taken_nanos,
    (1000 * extract(epoch from start.day::timestamp))::int8 as period_start_ms
  from budgets as budget
  cross join lateral (select ${periodStart} as day) as start
  left join budget_periods on budget_periods.account_id = budget.account_id
    and budget_id = budget.id and period_start = start.day
`;

/** List the budgets of an account, newest first, before the given id (empty: from the newest). */
export function listBudgets(
  db: Queries,
  { accountId, after, limit }: { accountId: string; after: string; limit: number },
): Promise<readonly BudgetRow[]> {
  return db.any(sql.type(budgetRow)`
    ${present}
    where budget.account_id = ${accountId} and deleted_at is null
      and (${after} = '' or id < ${after})
    order by id desc limit ${limit}
  `);
}

/** Get a budget that is there. */
export function getBudget(db: Queries, accountId: string, id: string): Promise<BudgetRow> {
  return db.one(sql.type(budgetRow)`
    ${present}
    where budget.account_id = ${accountId} and id = ${id}
  `);
}

/** Which budget, and how much. */
export interface NewBudget {
  accountId: string;
  id: string;
  scope: BudgetRow["scope"];
  subjectId: string;
  period: BudgetRow["period"];
  mode: Mode;
  limitNanos: bigint;
}

const idRow = z.object({ id: z.string() });

/** Set a budget. Returns its id: another one when there is one for the same. */
export async function putBudget(tx: Tx, budget: NewBudget, now: Date): Promise<string> {
  const { id } = await tx.one(sql.type(idRow)`
    insert into budgets (
      account_id, id, scope, subject_id, period, mode, limit_nanos, created_at, updated_at
    )
    values (
      ${budget.accountId}, ${budget.id}, ${budget.scope}, ${budget.subjectId}, ${budget.period},
      ${budget.mode}, ${budget.limitNanos}, ${now.toISOString()}, ${now.toISOString()}
    )
    on conflict (account_id, scope, subject_id, period, mode) where deleted_at is null
    do update set limit_nanos = excluded.limit_nanos, updated_at = excluded.updated_at
    returning id
  `);
  return id;
}

const countRow = z.object({ count: z.bigint() });

/** How many budgets an account has. */
export async function countBudgets(db: Queries, accountId: string): Promise<bigint> {
  const { count } = await db.one(sql.type(countRow)`
    select count(*) from budgets where account_id = ${accountId} and deleted_at is null
  `);
  return count;
}

const modeRow = z.object({ mode: z.enum(["live", "test"]), is_deleted: z.boolean() });

/** Delete a budget. Returns its mode, and whether it was deleted before. Null: the account never had it. */
export async function deleteBudget(
  tx: Tx,
  { accountId, id }: { accountId: string; id: string },
  now: Date,
): Promise<{ mode: Mode; wasDeleted: boolean } | null> {
  const row = await tx.maybeOne(sql.type(modeRow)`
    with before as (
      select account_id, id, mode, deleted_at from budgets
      where account_id = ${accountId} and id = ${id} for update
    ), deleted as (
      update budgets set deleted_at = ${now.toISOString()}
      from before
      where budgets.account_id = before.account_id and budgets.id = before.id
        and before.deleted_at is null
    )
    select mode, deleted_at is not null as is_deleted from before
  `);
  return row === null ? null : { mode: row.mode, wasDeleted: row.is_deleted };
}
