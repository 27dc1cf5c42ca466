import type { Database } from "../db/database.ts";
import {
  claimStale,
  countStale,
  markUnreadable,
  purgeRemoved,
  type StaleRow,
  swapSealed,
} from "./reseal-store.ts";
import { type Sealer, TamperedError } from "./seal.ts";

/** How far sealing again has come. */
export interface ResealProgress {
  /** Credentials that another key than the first one sealed. */
  readonly left: number;
  /** Credentials that no key opens: somebody else than the server changed them. */
  readonly unreadable: number;
}

interface Deps {
  db: Database;
  sealer: Sealer;
  /** Told after each round. */
  onProgress: (progress: ResealProgress, now: Date) => void;
  /** Told of each credential that cannot be opened, once. */
  onUnreadable: (credentialId: string) => void;
}

const batchSizeMax = 100;
const purgedMax = 1_000;

/**
 * One round: seal again, with the first key, what another one sealed, and delete what was removed. True: there is more.
 *
 * Any number of processes may do it at the same time. Whoever writes waits for one batch at most; readers wait for none.
 */
export async function resealNext(deps: Deps, now: Date): Promise<boolean> {
  const { db, sealer } = deps;
  const versions = sealer.versions.filter((version) => version !== sealer.primaryVersion);
  const { claimed, unreadable, progress } = await db.systemTransaction(async (tx) => {
    const rows = await claimStale(tx, { versions, limit: batchSizeMax });
    const damaged: StaleRow[] = [];
    for (const row of rows) {
      const next = resealed(sealer, row);
      if (next === null) {
        await markUnreadable(tx, row, now);
        damaged.push(row);
      } else {
        await swapSealed(tx, row, next);
      }
    }
    await purgeRemoved(tx, purgedMax);
    const counts = await countStale(tx, sealer.primaryVersion);
    return { claimed: rows.length, unreadable: damaged, progress: counts };
  });
  for (const { id } of unreadable) {
    deps.onUnreadable(id);
  }
  const { to_reseal, unreadable: count } = progress;
  deps.onProgress({ left: Number(to_reseal), unreadable: Number(count) }, now);
  return claimed === batchSizeMax;
}

/** The same text under the first key. Null when no key opens it. */
function resealed(sealer: Sealer, row: StaleRow): Buffer | null {
  const { account_id: accountId, provider, environment, id, sealed } = row;
  const context = { accountId, provider, environment, id };
  try {
    return sealer.seal(sealer.open(sealed, context), context);
  } catch (error) {
    if (error instanceof TamperedError) {
      return null;
    }
    throw error;
  }
}
