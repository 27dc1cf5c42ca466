import type { Audit, Database, Tenant } from "../db/database.ts";
import type { Tx } from "../db/pool.ts";
import type { Trust } from "./stand-ins.ts";

/** Say, in the transaction, that what is remembered of the secrets with these hashes no longer holds. */
export type Forget = (hashes: readonly string[]) => Promise<void>;

/**
 * Run a change of keys, and wait until no process acts on what was before: then a revoked key is refused everywhere.
 *
 * May run the work more than once, like tenantTransaction.
 */
export async function changeKeys<T>(
  { db, trust }: { db: Database; trust: Trust },
  { tenant, topic }: { tenant: Tenant; topic: string },
  work: (tx: Tx, audit: Audit, forget: Forget) => Promise<T>,
): Promise<T> {
  const epochs: bigint[] = [];
  const result = await db.tenantTransaction(tenant, async (tx, audit) => {
    epochs.length = 0;
    return work(tx, audit, async (hashes) => {
      epochs.push(await trust.announce(tx, topic, hashes));
    });
  });
  await Promise.all(epochs.map((epoch) => trust.settled(epoch)));
  return result;
}
