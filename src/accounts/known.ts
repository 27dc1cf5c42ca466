import type { Database } from "../db/database.ts";
import { createLruMap } from "../lib/lru-map.ts";
import type { MaybePromise } from "../lib/maybe-promise.ts";
import { existingAccounts } from "./store.ts";

/** Accounts that are remembered. One takes less than 200 bytes. */
const accountsMax = 100_000;

/** Those of the ids that are no accounts. Not a promise when memory knows them all. */
export type FindStrangers = (accountIds: readonly string[]) => MaybePromise<ReadonlySet<string>>;

/** Remember which accounts there are. None ever goes, so nobody needs to announce anything. */
export function rememberAccounts({ db }: { db: Database }): FindStrangers {
  const known = createLruMap<true>(accountsMax);

  async function ask(accountIds: string[]): Promise<ReadonlySet<string>> {
    const found = await db.systemTransaction((tx) => existingAccounts(tx, accountIds));
    for (const id of found) {
      known.set(id, true);
    }
    return new Set(accountIds.filter((id) => !found.has(id)));
  }

  return (accountIds) => {
    const asked = accountIds.filter((id) => known.get(id) === undefined);
    return asked.length === 0 ? nobody : ask(asked);
  };
}

const nobody: ReadonlySet<string> = new Set();
