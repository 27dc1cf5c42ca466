import type { Tx } from "../db/pool.ts";
import type { BatchContext, Corrected, PlacedCorrection } from "./applied-event.ts";
import { encodeRow } from "./codec.ts";
import type { Quarantined } from "./quarantine.ts";

/** Apply corrections, in the journal's order. What cannot be applied is told apart, and has no effect. */
export async function applyCorrections(
  _tx: Tx,
  corrections: readonly PlacedCorrection[],
  { shard }: BatchContext,
): Promise<{ done: Corrected[]; failed: Quarantined[] }> {
  const failed = corrections.map(({ entry, place }) => ({
    shard,
    place,
    accountId: entry.account,
    mode: "live" as const,
    reason: "POISONED" as const,
    detail: "corrections cannot be applied yet",
    raw: encodeRow([entry]),
    chargedNanos: 0n,
  }));
  return { done: [], failed };
}
