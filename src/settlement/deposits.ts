import type { Database } from "../db/database.ts";
import type { StellarNetwork } from "../stellar/network.ts";

/** What takes deposits. */
export interface DepositDeps {
  db: Database;
  network: StellarNetwork;
  now: () => Date;
}

/** Take the next page of payments to the treasury. True: there may be more. */
export async function takeDeposits(_deps: DepositDeps): Promise<boolean> {
  return false;
}
