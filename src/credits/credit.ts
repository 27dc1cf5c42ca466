import type { Tx } from "../db/pool.ts";
import type { Kind, Mode } from "../ledger/store.ts";
import { notBuilt } from "../rpc/errors.ts";

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

/** Add credit to a balance: what is owed is repaid first. Every way into a balance goes through here. */
export async function addCredit(
  _tx: Tx,
  _credit: NewCredit,
  _now: Date,
): Promise<{ repaidNanos: bigint }> {
  throw notBuilt("credit by grants");
}
