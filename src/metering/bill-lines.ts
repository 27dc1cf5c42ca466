import type { Queries, Tx } from "../db/pool.ts";
import type { Mode } from "../ledger/store.ts";
import { notBuilt } from "../rpc/errors.ts";
import type { Applied, Corrected } from "./applied-event.ts";

/** What one version of an API's price came to in a month, for an account. */
export interface BillLineRow {
  apiId: string;
  priceVersion: number;
  calls: bigint;
  units: bigint;
  /** Before corrections. */
  chargedNanos: bigint;
  /** What corrections added, or took. */
  correctedNanos: bigint;
}

/** Add applied events to the lines of bills. */
export async function addBillLines(_tx: Tx, _events: readonly Applied[]): Promise<void> {}

/** Add applied corrections to the lines of bills. */
export async function addCorrectedLines(_tx: Tx, _done: readonly Corrected[]): Promise<void> {}

/** List the lines of an account's month, for example `2026-11-01`. */
export function listBillLines(
  _db: Queries,
  _of: { accountId: string; month: string; mode: Mode },
): Promise<readonly BillLineRow[]> {
  throw notBuilt("the lines of invoices");
}
