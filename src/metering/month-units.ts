import { sql } from "slonik";
import { z } from "zod";
import type { Database } from "../db/database.ts";
import type { Queries } from "../db/pool.ts";
import { createLruMap } from "../lib/lru-map.ts";
import type { MaybePromise } from "../lib/maybe-promise.ts";
import type { Mode } from "../rpc/principal.ts";
import { shardCount, shardOf } from "./entry.ts";

/** Whose units of a month are counted. */
export interface MonthUnitsKey {
  accountId: string;
  apiId: string;
  mode: Mode;
  /** By its first day, for example `2026-11-01`. */
  month: string;
}

/**
 * Units that consumers used of APIs in a month, as far as this process knows.
 *
 * What it serves or takes in itself counts from its end on, applied or not, and once: by its position it is told whether
 * the sum that was read last has it. What other processes serve counts once it is applied and was read here, which is
 * some seconds later: so many processes, so often may the units of those seconds fall into the same tier.
 */
export interface MonthUnits {
  /** Rejects when the database does not answer the first time. */
  of(key: MonthUnitsKey): MaybePromise<MonthCount>;
}

/** Counts that are remembered. One takes less than a kilobyte. */
const countsMax = 50_000;
/** How old what was read may be before it is read anew, and before a call waits for that. */
const freshMs = 2_000;
const goodMs = 10_000;
/** Most that the journal's entries say. */
const unitsMax = 1_000_000_000_000n;
/** Rows of the journal with own units that are not applied. Past it they are told apart no more. */
const rowsMax = 4_096;

/** Units of one key. */
export class MonthCount {
  readonly month: string;
  /** What was applied up to a position of the journal. */
  #applied: MonthSum = { units: 0n, position: -1n };
  /** What was counted here and is not known to be in the journal. */
  #waiting = 0n;
  /** What was counted here and is in the journal behind that position. */
  #written: MonthSum[] = [];
  #writtenUnits = 0n;
  /** The most that calls which are under way may use. */
  #underWay = 0n;

  constructor(month: string) {
    this.month = month;
  }

  /** What was used. */
  get units(): bigint {
    return bounded(this.#applied.units + this.#writtenUnits + this.#waiting);
  }

  /** Begin a call, which will use so many at most. Returns how many may have been used before it when it ends. */
  begin(units: bigint): { least: bigint; most: bigint } {
    const least = this.units;
    const most = bounded(least + this.#underWay);
    this.#underWay += units;
    return { least, most };
  }

  /** End a call that was begun with so many. */
  end(units: bigint): void {
    this.#underWay -= units;
  }

  /** Count what was used. It is to be written. */
  count(units: bigint): void {
    this.#waiting += units;
  }

  /** Note that what was counted is in the journal. */
  written(units: bigint, position: bigint): void {
    this.#waiting -= units;
    if (units > 0n && position > this.#applied.position) {
      this.#writtenUnits += units;
      const last = this.#written.at(-1);
      if (last !== undefined && (last.position === position || this.#written.length >= rowsMax)) {
        last.units += units;
        last.position = position > last.position ? position : last.position;
      } else {
        this.#written.push({ units, position });
      }
    }
  }

  /** Note that what was counted will not be in the journal, or that nobody knows. */
  withdraw(units: bigint): void {
    this.#waiting -= units;
  }

  /** Note what is applied, of everybody. */
  apply(sum: MonthSum): void {
    if (sum.position >= this.#applied.position) {
      this.#applied = sum;
      this.#written = this.#written.filter(({ position }) => position > sum.position);
      this.#writtenUnits = this.#written.reduce((all, { units }) => all + units, 0n);
    }
  }
}

function bounded(units: bigint): bigint {
  return units < unitsMax ? units : unitsMax;
}

interface Known {
  readonly count: MonthCount;
  readAtMs: number;
  /** Null: nobody reads it. */
  reading: Promise<void> | null;
}

/** Make the memory of a process. */
export function createMonthUnits({
  db,
  nowMs = () => performance.now(),
}: {
  db: Pick<Database, "systemStatement">;
  /** Never goes back. */
  nowMs?: () => number;
}): MonthUnits {
  const counts = createLruMap<Known | Promise<MonthCount>>(countsMax);

  async function load(name: string, key: MonthUnitsKey): Promise<MonthCount> {
    try {
      const count = new MonthCount(key.month);
      count.apply(await db.systemStatement((one) => readMonthSum(one, key)));
      counts.set(name, { count, readAtMs: nowMs(), reading: null });
      return count;
    } catch (error) {
      counts.delete(name);
      throw error;
    }
  }

  async function refresh(known: Known, key: MonthUnitsKey): Promise<void> {
    try {
      known.count.apply(await db.systemStatement((one) => readMonthSum(one, key)));
    } catch {
      // What is known stays good enough; it is asked again after the next while.
    } finally {
      known.readAtMs = nowMs();
      known.reading = null;
    }
  }

  return {
    of(key) {
      const name = `${key.accountId} ${key.apiId} ${key.mode} ${key.month}`;
      const known = counts.get(name);
      if (known === undefined) {
        const loading = load(name, key);
        counts.set(name, loading);
        return loading;
      }
      if (known instanceof Promise) {
        return known;
      }
      const ageMs = nowMs() - known.readAtMs;
      if (ageMs > freshMs) {
        known.reading ??= refresh(known, key);
      }
      return ageMs > goodMs && known.reading !== null
        ? known.reading.then(() => known.count)
        : known.count;
    },
  };
}

/** Units that were applied up to a position. */
export interface MonthSum {
  units: bigint;
  position: bigint;
}

const sumRow = z.object({ units: z.bigint(), position: z.bigint() });

/** The units of a month that are applied, and up to where its shard is. */
function readMonthSum(
  one: Queries,
  { accountId, apiId, mode, month }: MonthUnitsKey,
): Promise<MonthSum> {
  return one.one(sql.type(sumRow)`
    select cursor.position, coalesce(sum(line.units), 0)::int8 as units
    from projector_cursors as cursor
    left join billing_lines as line on line.account_id = ${accountId} and line.mode = ${mode}
      and line.booked_month = ${month} and line.api_id = ${apiId}
    where cursor.shard = ${shardOf(accountId, shardCount)}
    group by cursor.position
  `);
}
