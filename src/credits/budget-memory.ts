import { sql } from "slonik";
import { z } from "zod";
import type { Database } from "../db/database.ts";
import type { Memory } from "../db/memory.ts";
import type { Queries } from "../db/pool.ts";
import type { Trust } from "../db/trust.ts";
import type { Mode } from "../ledger/store.ts";
import type { Payer } from "./purse.ts";

/** What is announced when a budget changes: keys are budgetKey(). */
export const budgetTopic = "budget";

/** The budgets of an account and a mode, as announcements name them. */
export function budgetKey(accountId: string, mode: Mode): string {
  return `${accountId} ${mode}`;
}

/** The budgets of an account and a mode. */
export interface Budgets {
  all: readonly BudgetOf[];
  /** Equal for equal ones, limits included. */
  text: string;
}

/** Whose spending a budget limits. */
export interface BudgetOf {
  id: string;
  scope: "account" | "member" | "key";
  subjectId: string;
}

/** The ids of those that apply to a payer. */
export function budgetsFor(
  { all }: Budgets,
  { familyId: key, createdBy: member }: Payer,
): string[] {
  return all
    .filter(({ scope, subjectId }) => subjectId === { account: "", member, key }[scope])
    .map(({ id }) => id);
}

const budgetRow = z.object({
  key: z.string(),
  id: z.string(),
  scope: z.enum(["account", "member", "key"]),
  subject_id: z.string(),
  limit_nanos: z.bigint(),
});

/** The budgets that there are, by budgetKey(). Accounts without any are left out. */
async function listBudgetsOf(
  db: Queries,
  keys: readonly string[],
): Promise<ReadonlyMap<string, Budgets>> {
  const accounts = new Set(keys.map((key) => key.slice(0, key.indexOf(" "))));
  const rows = await db.any(sql.type(budgetRow)`
    select concat(account_id, ' ', mode) as key, id, scope, subject_id, limit_nanos from budgets
    where account_id = any(${sql.array([...accounts], "text")}) and deleted_at is null
    order by id
  `);
  const byKey = Map.groupBy(rows, ({ key }) => key);
  return new Map(
    [...byKey].map(([key, own]) => [
      key,
      {
        all: own.map(({ id, scope, subject_id }) => ({ id, scope, subjectId: subject_id })),
        text: own.map(({ id, limit_nanos }) => `${id} ${limit_nanos}`).join(","),
      },
    ]),
  );
}

/** Remember which budgets accounts have. */
export function rememberBudgets({
  db,
  trust,
}: {
  db: Pick<Database, "systemTransaction">;
  trust: Pick<Trust, "remember">;
}): Memory<Budgets> {
  return trust.remember(budgetTopic, {
    load: (keys) => db.systemTransaction((tx) => listBudgetsOf(tx, keys)),
    entriesMax: 20_000,
  });
}
