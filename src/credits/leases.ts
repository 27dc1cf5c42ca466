import { sql } from "slonik";
import { z } from "zod";
import { briefHold } from "../db/brief-hold.ts";
import { type Column, unnestColumns } from "../db/columns.ts";
import { nothing, type Queries, type Tx } from "../db/pool.ts";
import { type Mode, postTransfers } from "../ledger/store.ts";
import { newId } from "../lib/id.ts";
import {
  type BudgetRoom,
  lockPeriods,
  lockPresentPeriods,
  takeFromBudgets,
} from "./budget-periods.ts";
import type { Shortage } from "./purse.ts";

/** How long a lease lasts from when it was opened or renewed, by the database's clock. */
export const leaseMs = 15_000;

/** Whose credit is wanted, and how much. */
export interface WantedCredit {
  accountId: string;
  mode: Mode;
  leastNanos: bigint;
  wantNanos: bigint;
  /** What a call costs. More than the least comes in multiples of it: the rest serves others. Unset: it does not matter. */
  unitNanos?: bigint;
}

/** What a lease got. */
export interface LeasedCredit {
  id: string;
  amountNanos: bigint;
  /** What is still in the balance, and in the tightest budget. */
  availableNanos: bigint;
  /** When the first period of its budgets ends, from the transaction's begin. Null: never. */
  endsInMs: number | null;
}

/** Of what is there, one lease takes so much at most: others want some, too. */
const share = 4n;

/**
 * Move some of an account's balance, and of the budgets' present periods, into a new lease.
 *
 * The balance row is locked before it is looked at, so that two processes cannot lease the same credit.
 */
export async function acquireLease(
  tx: Tx,
  wanted: WantedCredit & {
    holder: string;
    shard: number;
    budgetIds?: readonly string[];
    leaseMs?: number;
  },
  now: Date,
): Promise<{ lease: LeasedCredit } | Shortage> {
  const { accountId, mode, budgetIds = [] } = wanted;
  const room = await lockPresentPeriods(tx, { accountId, budgetIds });
  const held = await lockMoney(tx, wanted);
  const amountNanos = amountOf(wanted, held, room);
  if (amountNanos === null) {
    return shortageOf(held, room);
  }
  const id = newId("lea", now);
  await tx.query(sql.type(nothing)`
    insert into credit_leases (
      account_id, id, mode, holder, amount_nanos, shard, expire_at, budgets
    )
    values (
      ${accountId}, ${id}, ${mode}, ${wanted.holder}, ${amountNanos}, ${wanted.shard},
      ${expireAt(wanted.leaseMs ?? leaseMs)}, ${sql.array([...room.names], "text")}
    )
  `);
  const lease = { id, amountNanos, ...leftOf(held, room, amountNanos) };
  await moveIntoLease(tx, { ...wanted, names: room.names, amountNanos, sourceId: id }, now);
  return { lease };
}

const lockedRow = z.object({ budgets: z.array(z.string()) });

/**
 * Move more of an account's balance, and of the periods that the lease has, into a lease, and renew it. Null: it is
 * over.
 *
 * `count` tells what is added to one lease apart. It is never used twice.
 */
export async function topUpLease(
  tx: Tx,
  wanted: WantedCredit & { leaseId: string; count: number },
  now: Date,
): Promise<{ lease: LeasedCredit } | Shortage | null> {
  const { accountId, leaseId } = wanted;
  const row = await tx.maybeOne(sql.type(lockedRow)`
    select budgets, ${briefHold} from credit_leases
    where account_id = ${accountId} and id = ${leaseId} and state = 'active'
    for no key update
  `);
  if (row === null) {
    return null;
  }
  const room = await lockPeriods(tx, { accountId, names: row.budgets });
  const held = await lockMoney(tx, wanted);
  const amountNanos = amountOf(wanted, held, room);
  if (amountNanos === null) {
    return shortageOf(held, room);
  }
  await tx.query(sql.type(nothing)`
    update credit_leases
    set amount_nanos = amount_nanos + ${amountNanos}, expire_at = ${expireAt(leaseMs)}
    where account_id = ${accountId} and id = ${leaseId}
  `);
  const lease = { id: leaseId, amountNanos, ...leftOf(held, room, amountNanos) };
  const sourceId = `${leaseId}:${wanted.count}`;
  await moveIntoLease(tx, { ...wanted, names: row.budgets, amountNanos, sourceId }, now);
  return { lease };
}

const leaseIdRow = z.object({ id: z.string() });

/** Let those of a holder's leases last on that are not over. Returns which. */
export async function renewLeases(
  db: Queries,
  { holder, leaseIds }: { holder: string; leaseIds: readonly string[] },
): Promise<ReadonlySet<string>> {
  const rows = await db.any(sql.type(leaseIdRow)`
    with own as (
      select account_id, id from credit_leases
      where holder = ${holder} and state = 'active' and id = any(${sql.array([...leaseIds], "text")})
      order by id for no key update
    )
    update credit_leases as lease set expire_at = ${expireAt(leaseMs)}
    from own where lease.account_id = own.account_id and lease.id = own.id
    returning lease.id
  `);
  return new Set(rows.map((row) => row.id));
}

/** A lease of an account. */
export interface LeaseKey {
  accountId: string;
  leaseId: string;
}

/** How leases are named in lists. */
export const keyColumns: Column<LeaseKey>[] = [
  { type: "text", of: ({ accountId }) => accountId },
  { type: "text", of: ({ leaseId }) => leaseId },
];

const openRow = z.object({
  account_id: z.string(),
  id: z.string(),
  mode: z.enum(["live", "test"]),
  remainder_nanos: z.bigint(),
});

/** What events take from a lease. */
export interface LeaseSpending extends LeaseKey {
  nanos: bigint;
}

/** What is left of a lease. Zero for one that is closed, or not of the account and mode. */
export type LeaseRemainder = (accountId: string, mode: Mode, leaseId: string) => bigint;

/**
 * Lock the leases that events name, and tell what is left of each.
 *
 * An event may name a lease that does not pay for it: what the journal says must never stop the projector, nor take
 * another lease's escrow.
 */
export async function lockLeases(tx: Tx, named: readonly LeaseKey[]): Promise<LeaseRemainder> {
  if (named.length === 0) {
    return () => 0n;
  }
  const open = await tx.any(sql.prepared("lock_leases", openRow)`
    select account_id, id, mode, amount_nanos - spent_nanos as remainder_nanos
    from credit_leases
    where (account_id, id) in (select * from ${unnestColumns(named, keyColumns)})
      and state <> 'closed'
    order by id for no key update
  `);
  const left = new Map(
    open.map((row) => [`${row.account_id} ${row.mode} ${row.id}`, row.remainder_nanos]),
  );
  return (accountId, mode, leaseId) => left.get(`${accountId} ${mode} ${leaseId}`) ?? 0n;
}

const spendingColumns: Column<LeaseSpending>[] = [
  ...keyColumns,
  { type: "int8", of: ({ nanos }) => nanos },
];

/** Take from leases, each named once, what applied events cost. Lock them first. */
export async function spendLeases(tx: Tx, spent: readonly LeaseSpending[]): Promise<void> {
  if (spent.length === 0) {
    return;
  }
  await tx.query(sql.prepared("spend_leases", nothing)`
    update credit_leases set spent_nanos = spent_nanos + spent.nanos
    from ${unnestColumns(spent, spendingColumns)} as spent (account_id, id, nanos)
    where credit_leases.account_id = spent.account_id and credit_leases.id = spent.id
  `);
}

function expireAt(ms: number) {
  return sql.fragment`now() + ${ms} * interval '1 millisecond'`;
}

interface Money {
  availableNanos: bigint;
  reservedNanos: bigint;
  owedNanos: bigint;
}

const heldRow = z.object({ kind: z.string(), held_nanos: z.bigint() });

/** Lock what of an account's money a lease may move. In the order in which the ledger locks. */
async function lockMoney(
  tx: Tx,
  { accountId, mode }: Pick<WantedCredit, "accountId" | "mode">,
): Promise<Money> {
  const rows = await tx.any(sql.type(heldRow)`
    select kind, credits_nanos - debits_nanos as held_nanos, ${briefHold}
    from ledger_accounts
    where account_id = ${accountId} and mode = ${mode}
      and kind in ('consumer', 'consumer_receivable', 'lease_escrow')
    order by kind for update
  `);
  const held = new Map(rows.map((row) => [row.kind, row.held_nanos]));
  return {
    availableNanos: held.get("consumer") ?? 0n,
    reservedNanos: held.get("lease_escrow") ?? 0n,
    owedNanos: -(held.get("consumer_receivable") ?? 0n),
  };
}

/** How much a lease gets. Null: there is not so much as it needs at least. */
function amountOf(
  { leastNanos, wantNanos, unitNanos = 1n }: WantedCredit,
  { availableNanos }: Money,
  { tightest }: BudgetRoom,
): bigint | null {
  const free = least(availableNanos, tightest?.leftNanos ?? availableNanos);
  if (free < leastNanos) {
    return null;
  }
  const fair = least(wantNanos, free / share);
  return fair > leastNanos ? fair - ((fair - leastNanos) % unitNanos) : leastNanos;
}

function shortageOf(money: Money, { tightest }: BudgetRoom): Shortage {
  if (tightest === null || tightest.leftNanos >= money.availableNanos) {
    return { ...money, limitedBy: "balance", budgetId: "" };
  }
  const { leftNanos, budgetId } = tightest;
  // A limit that was lowered may lie below what is taken.
  return {
    ...money,
    availableNanos: leftNanos > 0n ? leftNanos : 0n,
    limitedBy: "budget",
    budgetId,
  };
}

function leftOf(
  { availableNanos }: Money,
  { tightest, endsInMs }: BudgetRoom,
  amountNanos: bigint,
): Pick<LeasedCredit, "availableNanos" | "endsInMs"> {
  const free = least(availableNanos, tightest?.leftNanos ?? availableNanos);
  return { availableNanos: free - amountNanos, endsInMs };
}

async function moveIntoLease(
  tx: Tx,
  moved: Pick<WantedCredit, "accountId" | "mode"> & {
    names: readonly string[];
    amountNanos: bigint;
    sourceId: string;
  },
  now: Date,
): Promise<void> {
  const { accountId, mode, names, amountNanos, sourceId } = moved;
  await takeFromBudgets(tx, { accountId, names, nanos: amountNanos });
  const source = { type: "lease", id: sourceId };
  const transfer = { accountId, mode, amountNanos, source };
  await postTransfers(tx, [{ ...transfer, debit: "consumer", credit: "lease_escrow" }], now);
}

function least(a: bigint, b: bigint): bigint {
  return a < b ? a : b;
}
