import type { Database } from "../db/database.ts";
import type { Tx } from "../db/pool.ts";
import { between, platformAccountId, postTransfers, type Transfer } from "../ledger/store.ts";
import type { ChainTransaction } from "../stellar/horizon.ts";
import type { StellarNetwork } from "../stellar/network.ts";
import { paymentsMax, signPayments } from "./envelope.ts";
import { payeeFaults } from "./result.ts";
import {
  type Attempt,
  closeSlot,
  countSending,
  findOpenSlot,
  getLastSequence,
  insertAttempt,
  insertSlot,
  listAttemptPayouts,
  listAttempts,
  listSlotPayouts,
  noteReply,
  type Slot,
} from "./slots.ts";
import {
  findRunning,
  finishSettlement,
  listUnassigned,
  markHeld,
  markPaid,
  type PayoutRow,
  type SettlementRow,
} from "./store.ts";

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

/** Put the next payouts into a new slot, or find that the run is done. */
async function openSlot(deps: SettlementDeps, running: SettlementRow): Promise<boolean> {
  const { db, network, now } = deps;
  const channel = network.channel.publicKey();
  const { payouts, lastSequence } = await db.systemTransaction(async (tx) => ({
    payouts: await listUnassigned(tx, { settlementId: running.id, limit: paymentsMax }),
    lastSequence: await getLastSequence(tx, channel),
  }));
  if (payouts.length === 0) {
    await db.systemTransaction((tx) => finishSettlement(tx, running.id, now()));
    return false;
  }
  const payable = await holdUnpayable(deps, payouts);
  if (payable.length === 0) {
    return true;
  }
  const account = await network.horizon.findAccount(channel);
  if (account === null || account.sequence < lastSequence) {
    throw new Error("Cannot open a slot: the network does not know the channel's newest sequence");
  }
  const sequence = account.sequence + 1n;
  await db.systemTransaction((tx) =>
    insertSlot(tx, { channel, sequence, settlement_id: running.id }, payable),
  );
  return true;
}

/** Hold the payouts whose address cannot take the asset. Only spares fees: the chain has the last word. */
async function holdUnpayable(
  { db, network, now }: SettlementDeps,
  payouts: readonly PayoutRow[],
): Promise<PayoutRow[]> {
  const payable: PayoutRow[] = [];
  for (const payout of payouts) {
    const account = await network.horizon.findAccount(payout.address);
    const trusts = account?.balances.some(
      ({ code, issuer }) => code === network.asset.code && issuer === network.asset.issuer,
    );
    if (trusts) {
      payable.push(payout);
    } else {
      const reason = account === null ? "DESTINATION_MISSING" : "TRUSTLINE_MISSING";
      await db.systemTransaction((tx) => hold(tx, payout, reason, now()));
    }
  }
  return payable;
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

/** Send an envelope, again if need be. Whatever the answer, the next step looks at the chain. */
async function send({ db, network }: SettlementDeps, slot: Slot, attempt: Attempt) {
  await db.systemTransaction((tx) => countSending(tx, attempt.hash));
  const reply = await network.horizon.submit(attempt.envelope);
  await db.systemTransaction((tx) => noteReply(tx, attempt.hash, JSON.stringify(reply)));
  if (reply.kind === "refused" && reply.code !== "tx_failed" && reply.code !== "tx_bad_seq") {
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
      await closeApplied(deps, slot, found);
      return true;
    }
  }
  return false;
}

/** Close a slot whose transaction is in a ledger. */
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
      await markPaid(
        tx,
        payouts.map(({ id }) => id),
        hash,
      );
      await postTransfers(tx, payouts.flatMap(paidTransfers), now());
      return;
    }
    const faults = payeeFaults(resultXdr);
    for (const [index, payout] of payouts.entries()) {
      const reason = faults[index];
      if (typeof reason === "string") {
        await hold(tx, payout, reason, now());
      }
    }
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
  const user = transactions.find(({ sourceSequence }) => sourceSequence === slot.sequence);
  const isOurs = attempts.some(({ hash }) => hash === user?.hash);
  if (user === undefined || isOurs) {
    throw new Error(`Cannot close slot ${slot.sequence}: what used its number is not found`);
  }
  await db.systemTransaction((tx) => closeSlot(tx, slot, { state: "closed_foreign", now: now() }));
  return true;
}

type Owed = { account_id: string; id: string; amount_nanos: bigint };

/** Make a payout payable again, for a reason on the developer's side. */
async function hold(tx: Tx, payout: Owed, reason: string, now: Date): Promise<void> {
  if (await markHeld(tx, payout.id, reason)) {
    const back: Transfer = {
      accountId: payout.account_id,
      mode: "live",
      debit: "in_flight",
      credit: "payable",
      amountNanos: payout.amount_nanos,
      source: { type: "payout_hold", id: payout.id },
    };
    await postTransfers(tx, [back], now);
  }
}

function paidTransfers({ account_id, id, amount_nanos }: Owed): Transfer[] {
  return between(
    { accountId: account_id, kind: "in_flight" },
    { accountId: platformAccountId, kind: "chain" },
    { mode: "live", amountNanos: amount_nanos, source: { type: "payout", id } },
  );
}
