import type { Database } from "../db/database.ts";
import { createLruMap } from "../lib/lru-map.ts";
import type { MaybePromise } from "../lib/maybe-promise.ts";
import { listMonthUnits } from "../metering/bill-lines.ts";
import type { Mode } from "../rpc/principal.ts";

/** Whose units of a month are counted. */
export interface MonthUnitsKey {
  accountId: string;
  apiId: string;
  mode: Mode;
}

/**
 * Units that consumers used of APIs in the present UTC month, as far as this process knows. Where one process serves
 * all calls of a consumer it is exact; what others serve is known some seconds later.
 */
export interface MonthUnits {
  /** Asks the database the first time in a month. Rejects when it does not answer. */
  before(key: MonthUnitsKey): MaybePromise<bigint>;
  /** Count what a call used, as its entry of the journal says it. */
  used(key: MonthUnitsKey, units: bigint): void;
}

/** Consumers' APIs whose units are remembered. One takes less than 500 bytes. */
const countsMax = 50_000;
/** How old the sum of what is applied may be. */
const freshMs = 2_000;
/** Most that the journal's entries say. */
const unitsMax = 1_000_000_000_000n;

interface Count {
  /** What was applied at first, and what this process counted since. */
  own: bigint;
  /** What was applied when it was asked last. */
  applied: bigint;
  readAtMs: number;
  isReading: boolean;
}

/** Count units of the present month. */
export function createMonthUnits({
  db,
  now,
  nowMs = () => performance.now(),
}: {
  db: Pick<Database, "systemStatement">;
  now: () => Date;
  /** Never goes back. */
  nowMs?: () => number;
}): MonthUnits {
  const counts = createLruMap<Count | Promise<Count>>(countsMax);

  async function read(key: MonthUnitsKey, month: string): Promise<bigint> {
    const [units] = await db.systemStatement((tx) => listMonthUnits(tx, [{ ...key, month }]));
    return units ?? 0n;
  }

  async function load(name: string, key: MonthUnitsKey, month: string): Promise<Count> {
    try {
      const applied = await read(key, month);
      const count = { own: applied, applied, readAtMs: nowMs(), isReading: false };
      counts.set(name, count);
      return count;
    } catch (error) {
      counts.delete(name);
      throw error;
    }
  }

  async function refresh(count: Count, key: MonthUnitsKey, month: string): Promise<void> {
    count.isReading = true;
    try {
      count.applied = await read(key, month);
    } catch {
      // What is known stays good enough; it is asked again after the next while.
    } finally {
      count.readAtMs = nowMs();
      count.isReading = false;
    }
  }

  return {
    before(key) {
      const month = `${now().toISOString().slice(0, 7)}-01`;
      const name = nameOf(key, month);
      const known = counts.get(name);
      if (known === undefined) {
        const loading = load(name, key, month);
        counts.set(name, loading);
        return loading.then(sumOf);
      }
      if (known instanceof Promise) {
        return known.then(sumOf);
      }
      if (!known.isReading && nowMs() - known.readAtMs > freshMs) {
        void refresh(known, key, month);
      }
      return sumOf(known);
    },
    used(key, units) {
      const known = counts.get(nameOf(key, `${now().toISOString().slice(0, 7)}-01`));
      if (known instanceof Promise) {
        known.then(
          (count) => {
            count.own += units;
          },
          () => {},
        );
      } else if (known !== undefined) {
        known.own += units;
      }
    },
  };
}

function sumOf({ own, applied }: Count): bigint {
  const units = own > applied ? own : applied;
  return units < unitsMax ? units : unitsMax;
}

function nameOf({ accountId, apiId, mode }: MonthUnitsKey, month: string): string {
  return `${accountId} ${apiId} ${mode} ${month}`;
}
