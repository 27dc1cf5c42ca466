import { sql } from "slonik";
import { z } from "zod";
import type { Database } from "../db/database.ts";
import { platformAccountId, postTransfers } from "../ledger/store.ts";
import { nanosPerStroop } from "../lib/money.ts";
import type { StellarNetwork } from "../stellar/network.ts";

/**
 * Enter what the treasury holds on the chain into the ledger, once, before the first payout.
 *
 * From then on every payout moves both.
 */
export async function enterTreasury(
  { db, network }: { db: Database; network: StellarNetwork },
  now: Date,
): Promise<void> {
  const source = { type: "treasury", id: network.treasury.publicKey() };
  const isEntered = await db.systemTransaction((tx) =>
    tx.maybeOne(sql.type(z.object({ id: z.string() }))`
      select id from ledger_transfers
      where account_id = ${platformAccountId} and source_type = ${source.type}
        and source_id = ${source.id}
    `),
  );
  if (isEntered !== null) {
    return;
  }
  const amountNanos = (await treasuryStroops(network)) * nanosPerStroop;
  const transfer = { accountId: platformAccountId, mode: "live", amountNanos, source } as const;
  await db.systemTransaction((tx) =>
    postTransfers(tx, [{ ...transfer, debit: "chain", credit: "treasury_equity" }], now),
  );
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
