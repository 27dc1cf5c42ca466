import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Tx } from "../db/pool.ts";
import { type Mode, postTransfers } from "../ledger/store.ts";
import { newId } from "../lib/id.ts";

/** A block of credit that one process may spend from memory. */
export interface Lease {
  id: string;
  amountNanos: bigint;
  expireAt: Date;
}

const availableRow = z.object({ available_nanos: z.bigint() });

/**
 * Move up to `wantNanos` of an account's balance into a lease. Null when it has less than `leastNanos`.
 *
 * The balance row is locked first, so that two processes cannot lease the same credit.
 */
export async function acquireLease(
  tx: Tx,
  wanted: {
    accountId: string;
    mode: Mode;
    holder: string;
    wantNanos: bigint;
    leastNanos: bigint;
    shard: number;
    expireAt: Date;
  },
  now: Date,
): Promise<{ lease: Lease } | { availableNanos: bigint }> {
  const { accountId, mode, expireAt } = wanted;
  const row = await tx.maybeOne(sql.type(availableRow)`
    select credits_nanos - debits_nanos as available_nanos from ledger_accounts
    where account_id = ${accountId} and kind = 'consumer' and mode = ${mode}
    for update
  `);
  const availableNanos = row?.available_nanos ?? 0n;
  if (availableNanos < wanted.leastNanos) {
    return { availableNanos };
  }
  const amountNanos = availableNanos < wanted.wantNanos ? availableNanos : wanted.wantNanos;
  const id = newId("lea", now);
  await tx.query(sql.type(nothing)`
    insert into credit_leases (account_id, id, mode, holder, amount_nanos, shard, expire_at)
    values (
      ${accountId}, ${id}, ${mode}, ${wanted.holder}, ${amountNanos}, ${wanted.shard},
      ${expireAt.toISOString()}
    )
  `);
  const source = { type: "lease", id };
  const transfer = { accountId, mode, amountNanos, source };
  await postTransfers(tx, [{ ...transfer, debit: "consumer", credit: "lease_escrow" }], now);
  return { lease: { id, amountNanos, expireAt } };
}

const leaseIdRow = z.object({ id: z.string() });

/**
 * Those of the leases that events of their accounts may still name, held so until the transaction ends.
 *
 * A journal append calls it, so that no lease is drained between this check and the append's commit. The lock lets
 * `spent_nanos` be changed meanwhile: an append does not wait for the projector.
 */
export async function holdActiveLeases(
  tx: Tx,
  leases: { accountId: string; id: string }[],
): Promise<Set<string>> {
  const named = leases.map(({ accountId, id }) => [accountId, id]);
  const rows = await tx.any(sql.type(leaseIdRow)`
    select id from credit_leases
    where (account_id, id) in (select * from ${sql.unnest(named, ["text", "text"])})
      and state = 'active'
    order by id for key share
  `);
  return new Set(rows.map((row) => row.id));
}

/**
 * Let no new event name up to 100 leases that are over: expired ones, or all of a holder that stops.
 *
 * The rows are locked by one statement and the head of the journal is read by the next, so that the fence covers
 * every append that held one of them.
 */
export async function drainLeases(
  tx: Tx,
  { now, holder }: { now: Date; holder: string | null },
): Promise<number> {
  const rows = await tx.any(sql.type(leaseIdRow)`
    select id from credit_leases
    where state = 'active' and (expire_at <= ${now.toISOString()} or holder = ${holder})
    order by id limit 100 for update
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

const openRow = z.object({
  account_id: z.string(),
  id: z.string(),
  mode: z.enum(["live", "test"]),
  remainder_nanos: z.bigint(),
});

/** A lease of an account. */
export interface LeaseKey {
  accountId: string;
  leaseId: string;
}

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
  const keys = named.map(({ accountId, leaseId }) => [accountId, leaseId]);
  const open = await tx.any(sql.type(openRow)`
    select account_id, id, mode, amount_nanos - spent_nanos as remainder_nanos
    from credit_leases
    where (account_id, id) in (select * from ${sql.unnest(keys, ["text", "text"])})
      and state <> 'closed'
    order by id for no key update
  `);
  const left = new Map(
    open.map((row) => [`${row.account_id} ${row.mode} ${row.id}`, row.remainder_nanos]),
  );
  return (accountId, mode, leaseId) => left.get(`${accountId} ${mode} ${leaseId}`) ?? 0n;
}

/** Take from leases, each named once, what applied events cost. Lock them first. */
export async function spendLeases(tx: Tx, spent: readonly LeaseSpending[]): Promise<void> {
  if (spent.length === 0) {
    return;
  }
  const rows = spent.map(({ accountId, leaseId, nanos }) => [accountId, leaseId, nanos.toString()]);
  await tx.query(sql.type(nothing)`
    update credit_leases set spent_nanos = spent_nanos + spent.nanos
    from ${sql.unnest(rows, ["text", "text", "int8"])} as spent (account_id, id, nanos)
    where credit_leases.account_id = spent.account_id and credit_leases.id = spent.id
  `);
}

const drainedRow = z.object({
  account_id: z.string(),
  id: z.string(),
  mode: z.enum(["live", "test"]),
  remainder_nanos: z.bigint(),
});

/** Which leases wait for nothing more: those of a shard that is applied up to a position. */
export interface Drained {
  shard: number;
  position: bigint;
  /** How many at once. Unset: 100. */
  limit?: number;
}

function closeDrained(tx: Tx, { shard, position, limit = 100 }: Drained) {
  return tx.any(sql.type(drainedRow)`
    update credit_leases set state = 'closed'
    where id in (
      select id from credit_leases
      where shard = ${shard} and state = 'draining' and fence <= ${position}
      order by id limit ${limit} for update
    )
    returning account_id, id, mode, amount_nanos - spent_nanos as remainder_nanos
  `);
}

/** End the first draining lease whose every event is applied; what is left of it stays in escrow. Returns its id. */
export async function closeWithoutReturn(tx: Tx, drained: Drained): Promise<string | undefined> {
  const [row] = await closeDrained(tx, { ...drained, limit: 1 });
  return row?.id;
}

/** Give back what is left of draining leases whose every event is applied. */
export async function closeDrainedLeases(tx: Tx, drained: Drained, now: Date): Promise<number> {
  const rows = await closeDrained(tx, drained);
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
  return rows.length;
}
