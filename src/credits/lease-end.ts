import { type FragmentSqlToken, sql } from "slonik";
import { z } from "zod";
import { briefHold } from "../db/brief-hold.ts";
import { unnestColumns } from "../db/columns.ts";
import { nothing, type Tx } from "../db/pool.ts";
import { postTransfers } from "../ledger/store.ts";
import { returnToBudgets } from "./budget-periods.ts";
import { burnPages } from "./burn.ts";
import { keyColumns, type LeaseKey } from "./leases.ts";

const leaseIdRow = z.object({ id: z.string() });

/**
 * Selects the ids of those leases that events may still name, and holds them so until the transaction ends.
 *
 * A journal append does so, that no lease is drained between this check and the append's commit. The lock lets
 * `spent_nanos` be changed meanwhile: an append does not wait for the projector, nor for who adds to the lease.
 */
export function activeLeases(leases: readonly LeaseKey[]): FragmentSqlToken {
  return sql.fragment`
    select id from credit_leases
    where (account_id, id) in (select * from ${unnestColumns(leases, keyColumns)})
      and state = 'active'
    order by id for key share
  `;
}

/** The ids of those leases that events may still name, held so until the transaction ends. */
export async function holdActiveLeases(
  tx: Tx,
  leases: readonly LeaseKey[],
): Promise<ReadonlySet<string>> {
  if (leases.length === 0) {
    return new Set();
  }
  const rows = await tx.any(sql.type(leaseIdRow)`${activeLeases(leases)}`);
  return new Set(rows.map((row) => row.id));
}

/** Most leases that are drained at once. */
export const drainedMax = 100;

/** Which leases to drain: those that expired, or of a holder these, or all. */
export type LeasesToDrain =
  | { holder: null }
  | { holder: string; leaseIds: readonly string[] | null };

/**
 * Let no new event name up to 100 leases that are over. Returns how many these were.
 *
 * The rows are locked by one statement and the head of the journal is read by the next, so that the fence covers
 * every append that held one of them. What is expired only the database's clock says.
 */
export async function drainLeases(tx: Tx, drained: LeasesToDrain): Promise<number> {
  const rows = await tx.any(sql.type(leaseIdRow)`
    select id, ${briefHold} from credit_leases
    where state = 'active' and ${ofDrained(drained)}
    order by id limit ${drainedMax} for update
  `);
  if (rows.length > 0) {
    const ids = rows.map((row) => row.id);
    await tx.query(sql.type(nothing)`
      update credit_leases set state = 'draining', fence = journal_head.position
      from journal_head
      where credit_leases.id = any(${sql.array(ids, "text")})
    `);
  }
  return rows.length;
}

function ofDrained(drained: LeasesToDrain): FragmentSqlToken {
  if (drained.holder === null) {
    return sql.fragment`expire_at <= now()`;
  }
  const { holder, leaseIds } = drained;
  return leaseIds === null
    ? sql.fragment`holder = ${holder}`
    : sql.fragment`holder = ${holder} and id = any(${sql.array([...leaseIds], "text")})`;
}

const drainedRow = z.object({
  account_id: z.string(),
  id: z.string(),
  mode: z.enum(["live", "test"]),
  budgets: z.array(z.string()),
  remainder_nanos: z.bigint(),
});

/** Which leases wait for nothing more: those of a shard that is applied up to a position. */
export interface Drained {
  shard: number;
  position: bigint;
  /** How many at once. Unset: 100. */
  limit?: number;
}

function closeDrained(tx: Tx, { shard, position, limit = drainedMax }: Drained) {
  return tx.any(sql.type(drainedRow)`
    update credit_leases set state = 'closed'
    where id in (
      select id from credit_leases
      where shard = ${shard} and state = 'draining' and fence <= ${position}
      order by id limit ${limit} for update
    )
    returning account_id, id, mode, budgets, amount_nanos - spent_nanos as remainder_nanos
  `);
}

/** End the first draining lease whose every event is applied; what is left of it stays in escrow. Returns its id. */
export async function closeWithoutReturn(tx: Tx, drained: Drained): Promise<string | undefined> {
  const [row] = await closeDrained(tx, { ...drained, limit: 1 });
  return row?.id;
}

/** Give back what is left of draining leases whose every event is applied. What is owed is repaid from it. */
export async function closeDrainedLeases(tx: Tx, drained: Drained, now: Date): Promise<number> {
  const rows = await closeDrained(tx, drained);
  await returnToBudgets(
    tx,
    rows.map(({ account_id, budgets, remainder_nanos }) => ({
      accountId: account_id,
      budgets,
      nanos: remainder_nanos,
    })),
  );
  await postTransfers(
    tx,
    rows.map((row) => ({
      accountId: row.account_id,
      mode: row.mode,
      debit: "lease_escrow",
      credit: "consumer",
      amountNanos: row.remainder_nanos,
      source: { type: "lease_return", id: row.id },
    })),
    now,
  );
  await repayDebts(tx, rows, now);
  return rows.length;
}

const debtRow = z.object({
  account_id: z.string(),
  mode: z.enum(["live", "test"]),
  repaid_nanos: z.bigint(),
});

/**
 * Repay what accounts owe from what has come back to them. It burns grants, as new credit does that repays a debt.
 *
 * Their balances are locked by the posting before, and nobody changes a debt without that lock.
 */
async function repayDebts(
  tx: Tx,
  rows: readonly z.infer<typeof drainedRow>[],
  now: Date,
): Promise<void> {
  const ids = new Map(rows.map(({ account_id, mode, id }) => [`${account_id} ${mode}`, id]));
  const accounts = [...new Set(rows.map(({ account_id }) => account_id))];
  const debts = await tx.any(sql.type(debtRow)`
    select account_id, mode, least(
      own.credits_nanos - own.debits_nanos, owed.debits_nanos - owed.credits_nanos
    ) as repaid_nanos
    from ledger_accounts as own join ledger_accounts as owed using (account_id, mode)
    where account_id = any(${sql.array(accounts, "text")})
      and own.kind = 'consumer' and own.credits_nanos > own.debits_nanos
      and owed.kind = 'consumer_receivable' and owed.debits_nanos > owed.credits_nanos
    order by account_id, mode
  `);
  const repaid = debts.flatMap(({ account_id: accountId, mode, repaid_nanos: nanos }) => {
    const id = ids.get(`${accountId} ${mode}`);
    return id === undefined ? [] : [{ accountId, mode, nanos, id }];
  });
  await postTransfers(
    tx,
    repaid.map(({ accountId, mode, nanos: amountNanos, id }) => ({
      ...{ accountId, mode, amountNanos, source: { type: "debt_recovery", id } },
      debit: "consumer",
      credit: "consumer_receivable",
    })),
    now,
  );
  const charges = repaid.map((one) => ({ ...one, at: now, fromNanos: 0n }));
  await burnPages(tx, charges, async () => {});
}
