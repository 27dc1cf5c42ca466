import type { Database } from "../db/database.ts";
import type { MaybePromise } from "../lib/maybe-promise.ts";
import type { Mode } from "../rpc/principal.ts";

/** Whose units of a month are counted. */
export interface MonthUnitsKey {
  accountId: string;
  apiId: string;
  mode: Mode;
}

/** Units that consumers used of APIs in the present UTC month, as far as this process knows. */
export interface MonthUnits {
  before(key: MonthUnitsKey): MaybePromise<bigint>;
  used(key: MonthUnitsKey, units: bigint): void;
}

/** Count units of the present month. */
export function createMonthUnits(_deps: { db: Database; now: () => Date }): MonthUnits {
  return { before: () => 0n, used: () => {} };
}
