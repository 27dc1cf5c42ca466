import type { Database } from "../db/database.ts";
import type { ChainTransaction } from "../stellar/horizon.ts";
import type { StellarNetwork } from "../stellar/network.ts";
import { signPayments } from "./envelope.ts";
import { openSlot } from "./opening.ts";
import { holdPayouts, payPayouts } from "./outcome.ts";
import { payeeFaults } from "./result.ts";
import {
  type Attempt,
  closeSlot,
  countSending,
  findOpenSlot,
  insertAttempt,
  listAttemptPayouts,
  listAttempts,
  listSlotPayouts,
  noteReply,
  type Slot,
} from "./slots.ts";
import { findRunning } from "./store.ts";

/** What the loop needs. */
export interface SettlementDeps {
  db: Database;
  network: StellarNetwork;
  now: () => Date;
}

/** How long a signed envelope may wait for its ledger. */
const validSeconds = 60;

/** Attempts in one slot. More need a look by a person. */
const attemptsMax = 50;

/**
 * Do the next step of the run that is not done. True: there may be more to do at once.
 *
 * At most one transaction can use a slot, and a payout stays in its slot until the slot is closed: so whatever is
 * lost, sent twice or late, and however many processes do this, nobody is paid twice.
 */
export async function settleNext(deps: SettlementDeps): Promise<boolean> {
  const { db, network } = deps;
  const channel = network.channel.publicKey();
  const { running, slot } = await db.systemTransaction(async (tx) => ({
    running: await findRunning(tx),
    slot: await findOpenSlot(tx, channel),
  }));
  if (slot !== null) {
    return workSlot(deps, slot);
  }
  return running === null ? false : openSlot(deps, running);
}

/** Find out what became of the slot's attempts; send the newest again, or make another, or close the slot. */
async function workSlot(deps: SettlementDeps, slot: Slot): Promise<boolean> {
  const { db, network } = deps;
  const attempts = await db.systemTransaction((tx) => listAttempts(tx, slot));
  const newest = attempts[0];
  if (newest === undefined) {
    await signAttempt(deps, slot, 1);
    return true;
  }
  // Read before the look-up: an attempt that was applied by then is found by it.
  const { closeTime } = await network.horizon.latestLedger();
  if (await closeIfApplied(deps, slot, attempts)) {
    return true;
  }
  if (closeTime <= Number(newest.max_time)) {
    return send(deps, slot, newest);
  }
  if (await closeIfForeign(deps, slot, attempts)) {
    return true;
  }
  if (newest.ordinal >= attemptsMax) {
    throw new Error(`Cannot pay slot ${slot.sequence}: ${attemptsMax} envelopes expired`);
  }
  await signAttempt(deps, slot, newest.ordinal + 1);
  return true;
}

/** Sign and store an envelope for the slot's payouts. It is sent by the next step, once it is stored. */
async function signAttempt({ db, network }: SettlementDeps, slot: Slot, ordinal: number) {
  const payouts = await db.systemTransaction((tx) => listSlotPayouts(tx, slot));
  if (payouts.length === 0) {
    // Another process has closed the slot.
    return;
  }
  const { closeTime } = await network.horizon.latestLedger();
  const maxTime = closeTime + validSeconds;
  const signed = signPayments(network, {
    orders: payouts.map(({ address, amount_nanos }) => ({ address, amountNanos: amount_nanos })),
    sequence: slot.sequence,
    maxTime,
    settlementId: slot.settlement_id,
  });
  await db.systemTransaction((tx) =>
    insertAttempt(tx, slot, { ...signed, ordinal, maxTime }, payouts),
  );
}

/** Refusals that the look at the chain explains. Others need a look by a person. */
const expectedCodes = new Set(["tx_failed", "tx_bad_seq", "tx_too_late"]);

/** Send an envelope, again if need be. Whatever the answer, the next step looks at the chain. */
async function send({ db, network }: SettlementDeps, slot: Slot, attempt: Attempt) {
  await db.systemTransaction((tx) => countSending(tx, attempt.hash));
  const reply = await network.horizon.submit(attempt.envelope);
  await db.systemTransaction((tx) => noteReply(tx, attempt.hash, JSON.stringify(reply)));
  if (reply.kind === "refused" && !expectedCodes.has(reply.code)) {
    throw new Error(`Cannot pay slot ${slot.sequence}: the network says ${reply.code}`);
  }
  return reply.kind === "applied" || (reply.kind === "refused" && attempt.sent_count === 0);
}

async function closeIfApplied(
  deps: SettlementDeps,
  slot: Slot,
  attempts: readonly Attempt[],
): Promise<boolean> {
  for (const { hash } of attempts) {
    const found = await deps.network.horizon.findTransaction(hash);
    if (found !== null) {
      await closeApplied(deps, slot, { ...found, hash });
      return true;
    }
  }
  return false;
}

/**
 * Close a slot whose transaction is in a ledger. The hash is the stored attempt's: whoever wraps our envelope in a fee
 * bump makes the network call it by another one.
 */
async function closeApplied(
  { db, now }: SettlementDeps,
  slot: Slot,
  { hash, successful, resultXdr }: ChainTransaction,
): Promise<void> {
  await db.systemTransaction(async (tx) => {
    const state = successful ? "closed_paid" : "closed_failed";
    if (!(await closeSlot(tx, slot, { state, now: now() }))) {
      return;
    }
    const payouts = await listAttemptPayouts(tx, hash);
    if (successful) {
      await payPayouts(tx, payouts, { hash, now: now() });
      return;
    }
    const faults = payeeFaults(resultXdr);
    const held = payouts.flatMap((payout, index) => {
      const reason = faults[index] ?? null;
      return reason === null ? [] : [{ payout, reason }];
    });
    await holdPayouts(tx, held, now());
  });
}

/** Close a slot whose sequence number somebody else's transaction used: ours can never be applied. */
async function closeIfForeign(
  { db, network, now }: SettlementDeps,
  slot: Slot,
  attempts: readonly Attempt[],
): Promise<boolean> {
  const account = await network.horizon.findAccount(slot.channel);
  if (account === null || account.sequence < slot.sequence) {
    return false;
  }
  const transactions = await network.horizon.listTransactions(slot.channel, 200);
  // Others' transactions that pay the channel are listed too, and anybody can choose their own sequence numbers.
  const user = transactions.find(
    ({ source, sourceSequence }) => source === slot.channel && sourceSequence === slot.sequence,
  );
  const isOurs = attempts.some(({ hash }) => hash === user?.hash || hash === user?.innerHash);
  if (user === undefined || isOurs) {
    throw new Error(`Cannot close slot ${slot.sequence}: what used its number is not found`);
  }
  await db.systemTransaction((tx) => closeSlot(tx, slot, { state: "closed_foreign", now: now() }));
  return true;
}
