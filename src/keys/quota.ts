import type { Database } from "../db/database.ts";
import { BusyError } from "../lib/semaphore.ts";
import { consumeUses } from "./use-store.ts";

/** What came of taking uses from a quota. */
export interface Taking {
  isGranted: boolean;
  /** Null: there is no quota any more. */
  left: number | null;
  /** When it is refilled next. Null: never. */
  refillAtMs: number | null;
}

/** Takes uses from quotas, durably. */
export interface Quotas {
  /** Take a number of uses, or none of them when fewer are left. Throws BusyError when too many wait already. */
  take(wanted: { accountId: string; familyId: string; cost: number }): Promise<Taking>;
}

const batchSizeMax = 1_000;
const waitingMax = 20_000;

interface Waiting {
  accountId: string;
  familyId: string;
  cost: number;
  resolve(taking: Taking): void;
  reject(error: unknown): void;
}

/** What quotas are kept with. */
interface Deps {
  db: Pick<Database, "systemTransaction">;
  now: () => Date;
}

/** Take what is wanted at one moment in one statement: while one runs, the next gathers. */
export function createQuotas({ db, now }: Deps): Quotas {
  const waiting: Waiting[] = [];
  let isRunning = false;

  async function run() {
    while (waiting.length > 0) {
      const batch = waiting.splice(0, batchSizeMax);
      try {
        const rows = await db.systemTransaction((tx) => consumeUses(tx, batch, now()));
        const byIndex = new Map(rows.map((row) => [row.n, row]));
        for (const [index, { resolve }] of batch.entries()) {
          const row = byIndex.get(index);
          resolve({
            // A quota that was removed in the meantime refuses nobody.
            isGranted: row?.is_granted ?? true,
            left: row === undefined ? null : Number(row.uses_left),
            refillAtMs: row?.refill_at ?? null,
          });
        }
      } catch (error) {
        for (const { reject } of batch) {
          reject(error);
        }
      }
    }
    isRunning = false;
  }

  return {
    take(wanted) {
      if (waiting.length >= waitingMax) {
        return Promise.reject(new BusyError(`Cannot take uses: ${waiting.length} wait already`));
      }
      return new Promise((resolve, reject) => {
        waiting.push({ ...wanted, resolve, reject });
        if (!isRunning) {
          isRunning = true;
          // What comes in the same turn of the event loop goes into the same statement.
          setImmediate(() => void run());
        }
      });
    },
  };
}
