import type { DepositInstructions, PaymentSource } from "../credits/purchase.ts";
import { type ConfirmedPayment, confirmPayment, type PurchasePaid } from "../credits/purchase.ts";
import type { Database } from "../db/database.ts";
import type { Tx } from "../db/pool.ts";
import { nanosPerStroop, stroopsText } from "../lib/money.ts";
import type { ChainPayment } from "../stellar/horizon.ts";
import type { StellarNetwork } from "../stellar/network.ts";
import { claimCursor, findCursor, updateCursor } from "./cursor-store.ts";

/** What takes deposits. */
export interface DepositDeps {
  db: Database;
  network: StellarNetwork;
  now: () => Date;
  /** Leaves word of a purchase that was paid, in the transaction that grants it. */
  tell: (tx: Tx, told: PurchasePaid) => Promise<void>;
  /** Told of a deposit that names no purchase. The treasury keeps it until somebody says whose it is. */
  onUnmatched: (payment: ConfirmedPayment) => void;
}

const sourceName = "stellar";
const pageSize = 200;
const purchasePrefix = "pur_";

/** The source of payments that are deposits on the chain: the memo names the purchase. */
export function stellarSource({
  asset,
  treasury,
  passphrase,
}: Pick<StellarNetwork, "asset" | "treasury" | "passphrase">): PaymentSource {
  return {
    name: sourceName,
    unitNanos: nanosPerStroop,
    open: ({ id, priceNanos }): DepositInstructions => ({
      address: treasury.publicKey(),
      memo: id.slice(purchasePrefix.length),
      assetCode: asset.code,
      assetIssuer: asset.issuer,
      amount: stroopsText(priceNanos / nanosPerStroop),
      network: passphrase,
    }),
  };
}

/**
 * Take the next page of payments to the treasury. True: there may be more.
 *
 * An operation's payments are taken in one transaction with the step of the cursor past it, so that each is taken
 * once, however many processes do this and wherever one of them ends.
 */
export async function takeDeposits(deps: DepositDeps): Promise<boolean> {
  const { db, network } = deps;
  const start = await db.systemTransaction((tx) => findCursor(tx, network));
  if (start === null) {
    // What the treasury held before is not entered yet.
    return false;
  }
  const payments = await network.horizon.listPayments(network.treasury.publicKey(), {
    cursor: start,
    limit: pageSize,
  });
  const operations = Map.groupBy(payments, ({ pagingToken }) => pagingToken);
  let cursor = start;
  for (const [token, all] of operations) {
    const deposits = all.filter((one) => isDeposit(network, one));
    if (deposits.length > 0) {
      if (!(await take(deps, { cursor, token, deposits }))) {
        return true;
      }
      cursor = token;
    }
  }
  const last = payments.at(-1);
  if (last !== undefined && last.pagingToken !== cursor) {
    await db.systemTransaction(async (tx) => {
      if (await claimCursor(tx, network, cursor)) {
        await updateCursor(tx, network, last.pagingToken);
      }
    });
  }
  return operations.size === pageSize;
}

/** Whether a payment brought money of ours. What the treasury pays itself moves nothing. */
export function isDeposit(
  { treasury, asset }: Pick<StellarNetwork, "treasury" | "asset">,
  payment: ChainPayment,
): boolean {
  const address = treasury.publicKey();
  return (
    payment.successful &&
    payment.to === address &&
    payment.from !== address &&
    payment.code === asset.code &&
    payment.issuer === asset.issuer &&
    payment.stroops > 0n
  );
}

/** Take the deposits of one operation. False: another process was here meanwhile. */
async function take(
  { db, network, now, tell, onUnmatched }: DepositDeps,
  { cursor, token, deposits }: { cursor: string; token: string; deposits: readonly ChainPayment[] },
): Promise<boolean> {
  const unmatched = await db.systemTransaction(async (tx) => {
    if (!(await claimCursor(tx, network, cursor))) {
      return null;
    }
    const found: ConfirmedPayment[] = [];
    for (const deposit of deposits) {
      const confirmed = toConfirmed(deposit);
      const outcome = await confirmPayment(tx, confirmed, now());
      if (outcome.state === "granted") {
        await tell(tx, outcome.told);
      } else if (outcome.state === "unmatched") {
        found.push(confirmed);
      }
    }
    await updateCursor(tx, network, token);
    return found;
  });
  for (const payment of unmatched ?? []) {
    onUnmatched(payment);
  }
  return unmatched !== null;
}

/** Another ledger counts from its beginning again: only with the hash a place in it names one payment for ever. */
function toConfirmed(payment: ChainPayment): ConfirmedPayment {
  const { memo, pagingToken, index, from, transactionHash } = payment;
  const isName = memo !== null && /^[0-9a-v]{26}$/.test(memo);
  return {
    source: sourceName,
    eventId: `${transactionHash}:${pagingToken}:${index}`,
    purchaseId: isName ? `${purchasePrefix}${memo}` : null,
    amountNanos: payment.stroops * nanosPerStroop,
    at: payment.at,
    detail: `${transactionHash} from ${from}${memo === null ? "" : `, memo ${JSON.stringify(memo)}`}`,
  };
}
