import { sql } from "slonik";
import { z } from "zod";
import { briefHold } from "../db/brief-hold.ts";
import { type Column, unnestColumns } from "../db/columns.ts";
import { nothing, type Tx } from "../db/pool.ts";

/** When a budget's present period began, in UTC, by the database's clock; of one without periods the first day of all. */
export const periodStart = sql.fragment`
  case period
    when 'day' then (now() at time zone 'UTC')::date
    when 'month' then date_trunc('month', now() at time zone 'UTC')::date
    else date '0001-01-01'
  end
`;

const periodRow = z.object({
  name: z.string(),
  /** Null: the budget is there no more. */
  left_nanos: z.bigint().nullable(),
  ends_in_ms: z.bigint().nullable(),
});

/** What budgets leave, locked until the transaction ends. */
export interface BudgetRoom {
  /** Of each `<budget> <first day of its period>`. */
  names: readonly string[];
  /** The least that one of them leaves, and which. Null: nothing limits it. */
  tightest: { budgetId: string; leftNanos: bigint } | null;
  /** When the first of their periods ends, from now. Null: never. */
  endsInMs: number | null;
}

const noRoom: BudgetRoom = { names: [], tightest: null, endsInMs: null };

/** Lock the present periods of budgets, as far as these are there. After leases, and before balances. */
export async function lockPresentPeriods(
  tx: Tx,
  { accountId, budgetIds }: { accountId: string; budgetIds: readonly string[] },
): Promise<BudgetRoom> {
  if (budgetIds.length === 0) {
    return noRoom;
  }
  const ids = sql.array([...budgetIds], "text");
  const periods = await tx.any(sql.type(z.object({ name: z.string() }))`
    with present as (
      select account_id, id, ${periodStart} as period_start from budgets
      where account_id = ${accountId} and id = any(${ids}) and deleted_at is null
    ), made as (
      insert into budget_periods (account_id, budget_id, period_start)
      select account_id, id, period_start from present order by id
      on conflict do nothing
    )
    select concat(id, ' ', period_start) as name, ${briefHold} from present
  `);
  return lockPeriods(tx, { accountId, names: periods.map(({ name }) => name) });
}

/** Lock periods of budgets that a lease names. After leases, and before balances. */
export async function lockPeriods(
  tx: Tx,
  { accountId, names }: { accountId: string; names: readonly string[] },
): Promise<BudgetRoom> {
  if (names.length === 0) {
    return noRoom;
  }
  const rows = await tx.any(sql.type(periodRow)`
    select concat(budget_id, ' ', period_start) as name,
      case when deleted_at is null then limit_nanos - taken_nanos end as left_nanos,
      case period
        when 'day' then ceil(1000 * extract(epoch from
          (period_start + 1)::timestamp - (now() at time zone 'UTC')))
        when 'month' then ceil(1000 * extract(epoch from
          period_start + interval '1 month' - (now() at time zone 'UTC')))
      end::int8 as ends_in_ms, ${briefHold}
    from budget_periods join budgets using (account_id)
    where account_id = ${accountId} and budgets.id = budget_id
      and (budget_id, period_start) in (select * from ${unnestColumns(names, nameColumns)})
    order by budget_id, period_start for update of budget_periods
  `);
  const left = rows.flatMap(({ name, left_nanos }) =>
    left_nanos === null ? [] : [{ budgetId: budgetOf(name), leftNanos: left_nanos }],
  );
  const ends = rows.flatMap(({ ends_in_ms }) => (ends_in_ms === null ? [] : [Number(ends_in_ms)]));
  return {
    names: rows.map(({ name }) => name),
    tightest: left.length === 0 ? null : left.reduce(tighter),
    endsInMs: ends.length === 0 ? null : Math.max(0, Math.min(...ends)),
  };
}

function tighter<T extends { leftNanos: bigint }>(a: T, b: T): T {
  return b.leftNanos < a.leftNanos ? b : a;
}

function budgetOf(name: string): string {
  return name.slice(0, name.indexOf(" "));
}

const nameColumns: Column<string>[] = [
  { type: "text", of: budgetOf },
  { type: "date", of: (name) => name.slice(name.indexOf(" ") + 1) },
];

/** Take from budgets what a lease gets. Lock their periods first. */
export async function takeFromBudgets(
  tx: Tx,
  { accountId, names, nanos }: { accountId: string; names: readonly string[]; nanos: bigint },
): Promise<void> {
  if (names.length === 0) {
    return;
  }
  await tx.query(sql.type(nothing)`
    update budget_periods set taken_nanos = taken_nanos + ${nanos}
    where account_id = ${accountId}
      and (budget_id, period_start) in (select * from ${unnestColumns(names, nameColumns)})
  `);
}

/** What a closed lease has left, and the budgets that it was taken from. */
export interface BudgetReturn {
  accountId: string;
  budgets: readonly string[];
  nanos: bigint;
}

interface PeriodReturn {
  accountId: string;
  name: string;
  nanos: bigint;
}

const returnColumns: Column<PeriodReturn>[] = [
  { type: "text", of: ({ accountId }) => accountId },
  { type: "text", of: ({ name }) => budgetOf(name) },
  { type: "date", of: ({ name }) => name.slice(name.indexOf(" ") + 1) },
  { type: "int8", of: ({ nanos }) => nanos },
];

/** Give what is left of leases back to the budgets that they were taken from. After leases, and before balances. */
export async function returnToBudgets(tx: Tx, returned: readonly BudgetReturn[]): Promise<void> {
  const sums = new Map<string, PeriodReturn>();
  for (const { accountId, budgets, nanos } of returned) {
    for (const name of nanos === 0n ? [] : budgets) {
      const key = `${accountId} ${name}`;
      const before = sums.get(key)?.nanos ?? 0n;
      sums.set(key, { accountId, name, nanos: before + nanos });
    }
  }
  if (sums.size === 0) {
    return;
  }
  await tx.query(sql.type(nothing)`
    with returned as (
      select account_id, budget_id, period_start, nanos
      from ${unnestColumns([...sums.values()], returnColumns)}
        as returned (account_id, budget_id, period_start, nanos)
      join budget_periods using (account_id, budget_id, period_start)
      order by account_id, budget_id, period_start for update of budget_periods
    )
    update budget_periods as period set taken_nanos = period.taken_nanos - returned.nanos
    from returned
    where period.account_id = returned.account_id and period.budget_id = returned.budget_id
      and period.period_start = returned.period_start
  `);
}
