import { StrKey } from "@stellar/stellar-sdk/base";
import type { Database } from "../db/database.ts";
import { nanosPerStroop } from "../lib/money.ts";
import type { StellarNetwork } from "../stellar/network.ts";
import { paymentsMax } from "./envelope.ts";
import { holdPayouts } from "./outcome.ts";
import { findNewestSlot, insertSlot } from "./slots.ts";
import {
  finishSettlement,
  listUnassigned,
  lockUnassigned,
  type PayoutRow,
  type SettlementRow,
} from "./store.ts";
import { treasuryStroops } from "./treasury.ts";

interface Deps {
  db: Database;
  network: StellarNetwork;
  now: () => Date;
}

/** How long to wait after a transaction failed for a reason of ours: each one costs a fee. */
const failurePauseMs = 60_000;

/**
 * Put the next payouts of a run into a new slot, or find that the run is done. True: there may be more to do at once.
 *
 * Other processes may be doing the same: what was read is looked at again, under a lock, before it is acted on.
 */
export async function openSlot(deps: Deps, running: SettlementRow): Promise<boolean> {
  const { db, network, now } = deps;
  const channel = network.channel.publicKey();
  const { payouts, newest } = await db.systemTransaction(async (tx) => ({
    payouts: await listUnassigned(tx, { settlementId: running.id, limit: paymentsMax }),
    newest: await findNewestSlot(tx, channel),
  }));
  if (payouts.length === 0) {
    await db.systemTransaction((tx) => finishSettlement(tx, running.id, now()));
    return false;
  }
  if (newest?.is_our_failure && newest.closed_at + failurePauseMs > now().getTime()) {
    throw new Error("Cannot open a slot: the last transaction failed, and no payee is to blame");
  }
  const payable = await holdUnpayable(deps, running, payouts);
  if (payable.length === 0) {
    return true;
  }
  await checkTreasury(network, payable);
  const account = await network.horizon.findAccount(channel);
  if (account === null || account.sequence < (newest?.sequence ?? 0n)) {
    throw new Error("Cannot open a slot: the network does not know the channel's newest sequence");
  }
  const slot = { channel, sequence: account.sequence + 1n, settlement_id: running.id };
  const ids = payable.map(({ id }) => id);
  await db.systemTransaction(async (tx) => {
    const free = await lockUnassigned(tx, running.id, ids);
    if (free.length === payable.length) {
      await insertSlot(tx, slot, free);
    }
  });
  return true;
}

/** Hold the payouts whose address cannot take the asset. Only spares fees: the chain has the last word. */
async function holdUnpayable(
  { db, network, now }: Deps,
  running: SettlementRow,
  payouts: readonly PayoutRow[],
): Promise<PayoutRow[]> {
  const payable: PayoutRow[] = [];
  for (const payout of payouts) {
    const reason = await findFault(network, payout.address);
    if (reason === null) {
      payable.push(payout);
      continue;
    }
    await db.systemTransaction(async (tx) => {
      const free = await lockUnassigned(tx, running.id, [payout.id]);
      await holdPayouts(
        tx,
        free.map((one) => ({ payout: one, reason })),
        now(),
      );
    });
  }
  return payable;
}

async function findFault(network: StellarNetwork, address: string): Promise<string | null> {
  // Asking the network would fail, and with it the run for everybody.
  if (!StrKey.isValidEd25519PublicKey(address)) {
    return "ADDRESS_INVALID";
  }
  const account = await network.horizon.findAccount(address);
  if (account === null) {
    return "DESTINATION_MISSING";
  }
  const { code, issuer } = network.asset;
  const trusts = account.balances.some((line) => line.code === code && line.issuer === issuer);
  return trusts ? null : "TRUSTLINE_MISSING";
}

/** A transaction that the treasury does not cover would fail and cost its fee, again and again. */
async function checkTreasury(network: StellarNetwork, payouts: PayoutRow[]): Promise<void> {
  const needed = payouts.reduce((sum, { amount_nanos }) => sum + amount_nanos, 0n);
  const held = (await treasuryStroops(network)) * nanosPerStroop;
  if (held < needed) {
    throw new Error(`Cannot open a slot: it needs ${needed} nano-USDC, the treasury holds ${held}`);
  }
}
