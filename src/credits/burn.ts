import type { Tx } from "../db/pool.ts";
import type { Mode } from "../ledger/store.ts";

/** A charge of an account, which burns its grants. */
export interface BurningCharge {
  accountId: string;
  mode: Mode;
  /** Where in the journal its event stands. */
  position: bigint;
  /** When the journal received it. */
  at: Date;
  /** What the account was charged before it, in the mode. */
  fromNanos: bigint;
  nanos: bigint;
}

/** Burn grants by charges, in their order. Lock the balances first. */
export async function burnGrants(_tx: Tx, _charges: readonly BurningCharge[]): Promise<void> {}
