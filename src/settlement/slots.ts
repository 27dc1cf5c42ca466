import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Queries, type Tx } from "../db/pool.ts";

const slotRow = z.object({
  channel: z.string(),
  sequence: z.bigint(),
  settlement_id: z.string(),
});

/** One sequence number of a channel account: at most one transaction can ever use it. */
export type Slot = z.infer<typeof slotRow>;

/** Find the channel's open slot. There is at most one. */
export function findOpenSlot(db: Queries, channel: string): Promise<Slot | null> {
  return db.maybeOne(sql.type(slotRow)`
    select channel, sequence, settlement_id from settlement_slots
    where channel = ${channel} and state = 'open'
  `);
}

const newestRow = z.object({
  sequence: z.bigint(),
  closed_at: z.number(),
  is_our_failure: z.boolean(),
});

/** Find the channel's newest slot, if it is closed, and whether it failed without a payee to blame. */
export function findNewestSlot(
  db: Queries,
  channel: string,
): Promise<z.infer<typeof newestRow> | null> {
  return db.maybeOne(sql.type(newestRow)`
    select sequence, closed_at, state = 'closed_failed' and not exists (
      select from settlement_slot_payouts as assigned
      join payouts on payouts.account_id = assigned.payout_account_id
        and payouts.id = assigned.payout_id
      where assigned.channel = newest.channel and assigned.sequence = newest.sequence
        and payouts.state = 'held'
    ) as is_our_failure
    from (
      select channel, sequence, state, closed_at from settlement_slots
      where channel = ${channel} order by sequence desc limit 1
    ) as newest
    where closed_at is not null
  `);
}

/**
 * Open a slot and put payouts into it, which the transaction has locked. They stay there until it is closed.
 *
 * Does nothing while the channel has an open slot, or when it had this one.
 */
export async function insertSlot(
  tx: Tx,
  slot: Slot,
  payouts: readonly { account_id: string; id: string }[],
): Promise<void> {
  const opened = await tx.maybeOne(sql.type(z.object({ channel: z.string() }))`
    insert into settlement_slots (channel, sequence, settlement_id)
    values (${slot.channel}, ${slot.sequence}, ${slot.settlement_id})
    on conflict do nothing
    returning channel
  `);
  if (opened === null) {
    return;
  }
  const rows = payouts.map(({ account_id, id }) => [
    slot.channel,
    slot.sequence.toString(),
    account_id,
    id,
  ]);
  await tx.query(sql.type(nothing)`
    insert into settlement_slot_payouts (channel, sequence, payout_account_id, payout_id)
    select * from ${sql.unnest(rows, ["text", "int8", "text", "text"])}
  `);
}

/** Close an open slot and release its payouts. False when it is closed already. */
export async function closeSlot(
  tx: Tx,
  slot: Slot,
  { state, now }: { state: "closed_paid" | "closed_failed" | "closed_foreign"; now: Date },
): Promise<boolean> {
  const row = await tx.maybeOne(sql.type(z.object({ channel: z.string() }))`
    update settlement_slots set state = ${state}, closed_at = ${now.toISOString()}
    where channel = ${slot.channel} and sequence = ${slot.sequence} and state = 'open'
    returning channel
  `);
  if (row === null) {
    return false;
  }
  await tx.query(sql.type(nothing)`
    update settlement_slot_payouts set released_at = ${now.toISOString()}
    where channel = ${slot.channel} and sequence = ${slot.sequence} and released_at is null
  `);
  return true;
}

const slotPayoutRow = z.object({
  account_id: z.string(),
  id: z.string(),
  address: z.string(),
  amount_nanos: z.bigint(),
});

/** A payout of a slot, to be paid by its next attempt. */
export type SlotPayout = z.infer<typeof slotPayoutRow>;

/** List a slot's payouts, in a fixed order. */
export function listSlotPayouts(db: Queries, slot: Slot): Promise<readonly SlotPayout[]> {
  return db.any(sql.type(slotPayoutRow)`
    select payouts.account_id, payouts.id, payouts.address, payouts.amount_nanos
    from settlement_slot_payouts as assigned
    join payouts on payouts.account_id = assigned.payout_account_id
      and payouts.id = assigned.payout_id
    where assigned.channel = ${slot.channel} and assigned.sequence = ${slot.sequence}
      and assigned.released_at is null
    order by payouts.id
  `);
}

const attemptRow = z.object({
  hash: z.string(),
  ordinal: z.number(),
  envelope: z.string(),
  max_time: z.bigint(),
  sent_count: z.number(),
});

/** A signed envelope of a slot. */
export type Attempt = z.infer<typeof attemptRow>;

/** List a slot's attempts, newest first. */
export function listAttempts(db: Queries, slot: Slot): Promise<readonly Attempt[]> {
  return db.any(sql.type(attemptRow)`
    select hash, ordinal, envelope, max_time, sent_count from settlement_attempts
    where channel = ${slot.channel} and sequence = ${slot.sequence}
    order by ordinal desc limit 100
  `);
}

/**
 * Store a signed envelope and whom it pays, before it is ever sent.
 *
 * Does nothing when the slot is not open any more, or has an attempt of that ordinal.
 */
export async function insertAttempt(
  tx: Tx,
  slot: Slot,
  attempt: { hash: string; ordinal: number; envelope: string; maxTime: number },
  payouts: readonly SlotPayout[],
): Promise<void> {
  const stored = await tx.maybeOne(sql.type(z.object({ hash: z.string() }))`
    insert into settlement_attempts (hash, channel, sequence, ordinal, envelope, max_time)
    select ${attempt.hash}, channel, sequence, ${attempt.ordinal}::int4, ${attempt.envelope},
      ${attempt.maxTime}::int8
    from settlement_slots
    where channel = ${slot.channel} and sequence = ${slot.sequence} and state = 'open'
    for share
    on conflict do nothing
    returning hash
  `);
  if (stored === null) {
    return;
  }
  const rows = payouts.map(({ account_id, id }, index) => [attempt.hash, index, account_id, id]);
  await tx.query(sql.type(nothing)`
    insert into settlement_attempt_payouts (hash, operation_index, payout_account_id, payout_id)
    select * from ${sql.unnest(rows, ["text", "int4", "text", "text"])}
  `);
}

/** Note that an attempt is about to be sent. */
export async function countSending(tx: Tx, hash: string): Promise<void> {
  await tx.query(sql.type(nothing)`
    update settlement_attempts set sent_count = sent_count + 1 where hash = ${hash}
  `);
}

/** Note what the network said. */
export async function noteReply(tx: Tx, hash: string, reply: string): Promise<void> {
  await tx.query(sql.type(nothing)`
    update settlement_attempts set last_reply = ${reply} where hash = ${hash}
  `);
}

const paidRow = z.object({
  account_id: z.string(),
  id: z.string(),
  amount_nanos: z.bigint(),
});

/** List whom an attempt pays, by the index of its operations. */
export function listAttemptPayouts(
  db: Queries,
  hash: string,
): Promise<readonly z.infer<typeof paidRow>[]> {
  return db.any(sql.type(paidRow)`
    select payouts.account_id, payouts.id, payouts.amount_nanos
    from settlement_attempt_payouts as paid
    join payouts on payouts.account_id = paid.payout_account_id and payouts.id = paid.payout_id
    where paid.hash = ${hash} order by paid.operation_index
  `);
}
