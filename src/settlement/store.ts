import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Queries, type Tx } from "../db/pool.ts";

/** Payouts that one run makes at most. The rest stays payable for the next. */
const payoutsMax = 1_000;

const payableRow = z.object({
  account_id: z.string(),
  payable_nanos: z.bigint(),
  address: z.string(),
});

/**
 * Lock and list what is owed to developers who have an address: the largest amounts, in the order in which balances
 * are locked.
 */
export function lockPayables(
  tx: Tx,
  minimumNanos: bigint,
): Promise<readonly z.infer<typeof payableRow>[]> {
  return tx.any(sql.type(payableRow)`
    select balance.account_id, balance.credits_nanos - balance.debits_nanos as payable_nanos,
      payout_addresses.address
    from ledger_accounts as balance
    join payout_addresses using (account_id)
    where balance.kind = 'payable' and balance.mode = 'live' and balance.account_id in (
      select account_id from ledger_accounts
      join payout_addresses using (account_id)
      where kind = 'payable' and mode = 'live' and credits_nanos - debits_nanos >= ${minimumNanos}
      order by credits_nanos - debits_nanos desc, account_id limit ${payoutsMax}
    )
    order by balance.account_id for update of balance
  `);
}

const settlementRow = z.object({
  id: z.string(),
  state: z.enum(["running", "done"]),
  created_at: z.number(),
});

/** A run. */
export type SettlementRow = z.infer<typeof settlementRow>;

/** Insert a run. False while another one is not done. */
export async function insertSettlement(tx: Tx, id: string): Promise<boolean> {
  const row = await tx.maybeOne(sql.type(z.object({ id: z.string() }))`
    insert into settlements (id) values (${id})
    on conflict (state) where state = 'running' do nothing
    returning id
  `);
  return row !== null;
}

/** Find a run. */
export function findSettlement(db: Queries, id: string): Promise<SettlementRow | null> {
  return db.maybeOne(sql.type(settlementRow)`
    select id, state, created_at from settlements where id = ${id}
  `);
}

/** Find the run that is not done. */
export function findRunning(db: Queries): Promise<SettlementRow | null> {
  return db.maybeOne(sql.type(settlementRow)`
    select id, state, created_at from settlements where state = 'running'
  `);
}

/** Say that a run is done, if each of its payouts is paid or held. */
export async function finishSettlement(tx: Tx, id: string, now: Date): Promise<void> {
  await tx.query(sql.type(nothing)`
    update settlements set state = 'done', done_at = ${now.toISOString()}
    where id = ${id} and state = 'running' and not exists (
      select from payouts where settlement_id = ${id} and payouts.state = 'in_flight'
    )
  `);
}

const payoutRow = z.object({
  account_id: z.string(),
  id: z.string(),
  address: z.string(),
  amount_nanos: z.bigint(),
  state: z.enum(["in_flight", "paid", "held"]),
  hold_reason: z.string(),
  transaction_hash: z.string(),
});

/** A developer's share of a run. */
export type PayoutRow = z.infer<typeof payoutRow>;

const payoutColumns = sql.fragment`
  payouts.account_id, payouts.id, payouts.address, payouts.amount_nanos, payouts.state,
  payouts.hold_reason, payouts.transaction_hash
`;

/** Insert a run's payouts. */
export async function insertPayouts(
  tx: Tx,
  settlementId: string,
  payouts: { accountId: string; id: string; address: string; amountNanos: bigint }[],
): Promise<void> {
  const rows = payouts.map(({ accountId, id, address, amountNanos }) => [
    accountId,
    id,
    settlementId,
    address,
    amountNanos.toString(),
    "in_flight",
  ]);
  await tx.query(sql.type(nothing)`
    insert into payouts (account_id, id, settlement_id, address, amount_nanos, state)
    select * from ${sql.unnest(rows, ["text", "text", "text", "text", "int8", "text"])}
  `);
}

/** List a run's payouts, in a fixed order. */
export function listPayouts(db: Queries, settlementId: string): Promise<readonly PayoutRow[]> {
  return db.any(sql.type(payoutRow)`
    select ${payoutColumns} from payouts where settlement_id = ${settlementId} order by id
  `);
}

/** List payouts of a run that are in no open slot. */
export function listUnassigned(
  db: Queries,
  { settlementId, limit }: { settlementId: string; limit: number },
): Promise<readonly PayoutRow[]> {
  return db.any(sql.type(payoutRow)`
    select ${payoutColumns} from payouts
    where settlement_id = ${settlementId} and state = 'in_flight' and not exists (
      select from settlement_slot_payouts as assigned
      where assigned.payout_id = payouts.id and assigned.released_at is null
    )
    order by id limit ${limit}
  `);
}

/**
 * Lock payouts of a run, and list those that are still in flight and in no open slot.
 *
 * Two statements: the second sees what was committed while the first waited.
 */
export async function lockUnassigned(
  tx: Tx,
  settlementId: string,
  payoutIds: string[],
): Promise<readonly PayoutRow[]> {
  const ids = sql.array(payoutIds, "text");
  await tx.query(sql.type(z.object({ id: z.string() }))`
    select id from payouts where settlement_id = ${settlementId} and id = any(${ids})
    order by id for update
  `);
  return tx.any(sql.type(payoutRow)`
    select ${payoutColumns} from payouts
    where settlement_id = ${settlementId} and id = any(${ids}) and state = 'in_flight'
      and not exists (
        select from settlement_slot_payouts as assigned
        where assigned.payout_id = payouts.id and assigned.released_at is null
      )
    order by id
  `);
}

/** Mark payouts as paid by a transaction. */
export async function markPaid(tx: Tx, payoutIds: string[], hash: string): Promise<void> {
  await tx.query(sql.type(nothing)`
    update payouts set state = 'paid', transaction_hash = ${hash}
    where id = any(${sql.array(payoutIds, "text")}) and state = 'in_flight'
  `);
}

/** Mark a payout as held, and why. False when it is no more in flight. */
export async function markHeld(tx: Tx, payoutId: string, reason: string): Promise<boolean> {
  const row = await tx.maybeOne(sql.type(z.object({ id: z.string() }))`
    update payouts set state = 'held', hold_reason = ${reason}
    where id = ${payoutId} and state = 'in_flight'
    returning id
  `);
  return row !== null;
}

const earningsRow = z.object({
  credited_nanos: z.bigint(),
  payable_nanos: z.bigint(),
  in_flight_nanos: z.bigint(),
  paid_nanos: z.bigint(),
  address: z.string(),
});

/** What a developer earned, and what became of it. */
export function getEarnings(db: Queries, accountId: string): Promise<z.infer<typeof earningsRow>> {
  return db.one(sql.type(earningsRow)`
    select
      coalesce((
        select sum(amount_nanos) from ledger_transfers
        where account_id = ${accountId} and mode = 'live'
          and debit_kind = 'clearing' and credit_kind = 'payable'
      ), 0)::int8 as credited_nanos,
      coalesce(max(credits_nanos - debits_nanos) filter (where kind = 'payable'), 0)::int8
        as payable_nanos,
      coalesce(max(credits_nanos - debits_nanos) filter (where kind = 'in_flight'), 0)::int8
        as in_flight_nanos,
      coalesce((
        select sum(amount_nanos) from payouts where account_id = ${accountId} and state = 'paid'
      ), 0)::int8 as paid_nanos,
      coalesce((select address from payout_addresses where account_id = ${accountId}), '')
        as address
    from ledger_accounts where account_id = ${accountId} and mode = 'live'
  `);
}

/** Set where an account's payouts go. */
export async function upsertAddress(tx: Tx, accountId: string, address: string): Promise<void> {
  await tx.query(sql.type(nothing)`
    insert into payout_addresses (account_id, address) values (${accountId}, ${address})
    on conflict (account_id) do update set address = excluded.address, updated_at = now()
  `);
}
