import type { Audit, Database, Tenant } from "../db/database.ts";
import type { Tx } from "../db/pool.ts";
import type { Trust } from "../db/trust.ts";

/** Say, in the transaction, that what is remembered of the secrets with these hashes no longer holds. */
export type Forget = (hashes: readonly string[]) => void;

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
  const { result, epoch } = await db.tenantTransaction(tenant, async (tx, audit) => {
    const forgotten: string[] = [];
    const result = await work(tx, audit, (hashes) => forgotten.push(...hashes));
    // Last: from here to the commit nobody else can announce.
    return { result, epoch: await trust.announce(tx, topic, forgotten) };
  });
  await trust.settled(epoch);
  return result;
}
