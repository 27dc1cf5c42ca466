import type { Tx } from "../db/pool.ts";
import type { Applied, Corrected } from "./applied-event.ts";

/** Add applied events to the meters that count them, and count anew what was voided. */
export async function addMeters(
  _tx: Tx,
  _batch: { applied: readonly Applied[]; voided: readonly Corrected[] },
): Promise<void> {}
