import type { Tx } from "../db/pool.ts";
import { postGrants } from "../ledger/grant.ts";
import { type Kind, type Mode, platformAccountId } from "../ledger/store.ts";
import { rearmAlert } from "./alert.ts";
import { insertGrants } from "./grant-store.ts";
import { addToMonths } from "./month-store.ts";

/** What credit comes from. */
export type GrantKind = "promotion" | "purchase" | "adjustment" | "test";

/** Credit that comes in. */
export interface NewCredit {
  accountId: string;
  mode: Mode;
  grantId: string;
  kind: GrantKind;
  amountNanos: bigint;
  /** Where the money comes from. */
  from: { accountId: string; kind: Kind };
  /** The lowest burns first. */
  priority: number;
  /** Null: never. */
  expireAt: Date | null;
  /** Empty unless it was bought. */
  purchaseId: string;
  note: string;
}

/** What the platform gives is its expense: developers are paid for what it buys. */
export const promotionMoney = { accountId: platformAccountId, kind: "promotion_expense" } as const;

/** How a grant is ordered of which nothing else was said. */
export const priorityDefault = 50;

/** The kinds of transfers' causes. Their ids are those of grants. */
const sourceTypes: Readonly<Record<GrantKind, string>> = {
  promotion: "grant",
  test: "grant",
  purchase: "purchase",
  adjustment: "adjustment",
};

/** Add credit to a balance: see addCredits. */
export async function addCredit(
  tx: Tx,
  credit: NewCredit,
  now: Date,
): Promise<{ repaidNanos: bigint }> {
  const [repaidNanos = 0n] = await addCredits(tx, [credit], now);
  return { repaidNanos };
}

/**
 * Add credit to balances: what is owed is repaid first. Every way into a balance goes through here.
 *
 * It must be the only posting of its transaction. Returns what each of them repaid.
 */
export async function addCredits(
  tx: Tx,
  credits: readonly NewCredit[],
  now: Date,
): Promise<bigint[]> {
  const posted = await postGrants(
    tx,
    credits.map((credit) => ({
      ...credit,
      id: credit.grantId,
      sourceType: sourceTypes[credit.kind],
    })),
    now,
  );
  const repaid = posted.map(({ repaidNanos }) => repaidNanos);
  await insertGrants(tx, { credits, repaid, now });
  const moves = credits.map(({ accountId, mode, kind, amountNanos: nanos }) => {
    const what = kind === "adjustment" ? ("given" as const) : ("granted" as const);
    return { accountId, mode, what, nanos };
  });
  await addToMonths(tx, moves, now);
  const told = new Set<string>();
  for (const [index, { accountId, mode }] of credits.entries()) {
    const purse = `${accountId} ${mode}`;
    if (!told.has(purse)) {
      told.add(purse);
      await rearmAlert(tx, { accountId, mode, balanceNanos: posted[index]?.heldNanos ?? 0n });
    }
  }
  return repaid;
}
