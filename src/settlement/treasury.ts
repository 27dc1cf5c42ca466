import type { Database } from "../db/database.ts";
import { platformAccountId, postTransfers } from "../ledger/store.ts";
import { nanosPerStroop } from "../lib/money.ts";
import type { StellarNetwork } from "../stellar/network.ts";
import { findCursor, insertCursor } from "./cursor-store.ts";

/** A payment may come between the looks; then they are taken again. */
const looksMax = 20;

/**
 * Enter what the treasury holds on the chain into the ledger, once, before the first payout and the first deposit.
 *
 * From then on every payout and every deposit moves both: payments after the cursor that is stored with it are not
 * in what was entered.
 */
export async function enterTreasury(
  { db, network }: { db: Database; network: StellarNetwork },
  now: Date,
): Promise<void> {
  const treasury = network.treasury.publicKey();
  if ((await db.systemTransaction((tx) => findCursor(tx, network))) !== null) {
    return;
  }
  const { cursor, stroops } = await lookAtTreasury(network);
  const amountNanos = stroops * nanosPerStroop;
  const source = { type: "treasury", id: treasury };
  const transfer = { accountId: platformAccountId, mode: "live", amountNanos, source } as const;
  await db.systemTransaction(async (tx) => {
    // Of two processes that look at once the first one to post decides, with its cursor.
    await postTransfers(tx, [{ ...transfer, debit: "chain", credit: "treasury_equity" }], now);
    await insertCursor(tx, network, cursor);
  });
}

/** What the treasury holds, and the last payment that is in it. */
async function lookAtTreasury(
  network: StellarNetwork,
): Promise<{ cursor: string; stroops: bigint }> {
  const address = network.treasury.publicKey();
  for (let look = 1; look <= looksMax; look++) {
    const cursor = await network.horizon.newestPayment(address);
    const stroops = await treasuryStroops(network);
    if ((await network.horizon.newestPayment(address)) === cursor) {
      return { cursor, stroops };
    }
  }
  throw new Error(`Cannot enter the treasury: a payment came in each of ${looksMax} looks`);
}

/** What the treasury holds on the chain now, in stroops. */
export async function treasuryStroops({
  horizon,
  treasury,
  asset,
}: StellarNetwork): Promise<bigint> {
  const account = await horizon.findAccount(treasury.publicKey());
  const balance = account?.balances.find(
    ({ code, issuer }) => code === asset.code && issuer === asset.issuer,
  );
  return balance?.stroops ?? 0n;
}
