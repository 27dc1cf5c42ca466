import type { Tx } from "../db/pool.ts";

/** Take back what is left of grants that are over, up to 100 at once. True: there may be more. */
export async function expireNext(_tx: Tx, _now: Date): Promise<boolean> {
  return false;
}
