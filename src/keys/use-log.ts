import type { Database } from "../db/database.ts";
import type { KnownKey } from "./known-key.ts";
import { touchKeys } from "./use-store.ts";

/** Notes when keys are used, and writes it down later. */
export interface UseLog {
  /** Note a use. A use within a minute of a noted one is left out, and so is what there is no room for. */
  note(key: KnownKey, now: Date): void;
  /** Write some of what was noted. True: there is more. */
  flush(): Promise<boolean>;
}

const noteEveryMs = 60_000;
const notedMax = 50_000;
const batchSizeMax = 1_000;

/** Make the log. It belongs to one process; what is not yet written is lost with it. */
export function createUseLog({ db }: { db: Pick<Database, "systemTransaction"> }): UseLog {
  const noted = new Map<string, { accountId: string; usedAt: Date }>();
  return {
    note(key, now) {
      if (now.getTime() - key.notedAtMs < noteEveryMs || noted.size >= notedMax) {
        return;
      }
      key.notedAtMs = now.getTime();
      noted.set(key.id, { accountId: key.accountId, usedAt: now });
    },
    async flush() {
      const batch: { id: string; accountId: string; usedAt: Date }[] = [];
      for (const [id, use] of noted) {
        if (batch.length === batchSizeMax) {
          break;
        }
        batch.push({ id, ...use });
        noted.delete(id);
      }
      if (batch.length === 0) {
        return false;
      }
      await db.systemTransaction((tx) => touchKeys(tx, batch));
      return noted.size > 0;
    },
  };
}
