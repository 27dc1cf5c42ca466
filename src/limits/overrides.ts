import { RateClass } from "../../gen/callora/policy/v1/policy_pb.ts";
import type { Database } from "../db/database.ts";
import type { Memory } from "../db/memory.ts";
import type { Tx } from "../db/pool.ts";
import type { Trust } from "../db/trust.ts";
import { perMinute } from "../rpc/gcra.ts";
import type { OwnRates } from "../rpc/limit.ts";
import { limitedId, type Principal } from "../rpc/principal.ts";
import { listOverridesOf, type OverrideRow } from "./store.ts";

/** The overrides as every call needs them: in memory, and true. */
export interface RateOverrides {
  /** The rates that a caller has of their own. A promise only when they are not in memory. */
  ratesOf(principal: Principal): OwnRates | null | Promise<OwnRates | null>;
  /** Say in the transaction of a change that it changes this one's rates. Returns what `settled` takes. */
  announce(tx: Tx, subject: Subject): Promise<bigint>;
  /** After the commit: resolves once no process counts by what was before. */
  settled(epoch: bigint): Promise<void>;
}

/** A person, or an API key with all that replaces it: then the subject is the first of them. */
export interface Subject {
  accountId: string;
  subjectId: string;
}

/** The class of each word of the table. */
export const classOf = {
  console: RateClass.CONSOLE,
  v1: RateClass.V1,
  admin: RateClass.ADMIN,
  monitor: RateClass.MONITOR,
} satisfies Record<OverrideRow["rate_class"], RateClass>;

const topic = "rate_override";
const entriesMax = 100_000;

/** Remember the overrides, and that most callers have none. */
export function createRateOverrides({ db, trust }: { db: Database; trust: Trust }): RateOverrides {
  const memory: Memory<OwnRates> = trust.remember(topic, {
    load: (keys) => load(db, keys),
    entriesMax,
  });
  return {
    ratesOf(principal) {
      // A person's rates are the person's, whichever account they act for.
      const accountId = principal.kind === "user" ? principal.homeAccountId : principal.accountId;
      return memory.get(keyOf({ accountId, subjectId: limitedId(principal) }));
    },
    announce: (tx, subject) => trust.announce(tx, topic, [keyOf(subject)]),
    settled: (epoch) => trust.settled(epoch),
  };
}

async function load(db: Database, keys: readonly string[]): Promise<ReadonlyMap<string, OwnRates>> {
  const subjects = keys.map((key) => {
    const [accountId = "", subjectId = ""] = key.split("/");
    return { accountId, subjectId };
  });
  const rows = await db.systemTransaction((tx) => listOverridesOf(tx, subjects));
  const found = new Map<string, OwnRates>();
  for (const row of rows) {
    const key = keyOf({ accountId: row.account_id, subjectId: row.subject_id });
    const rate = perMinute(row.per_minute, row.burst);
    found.set(key, { ...found.get(key), [classOf[row.rate_class]]: rate });
  }
  return found;
}

function keyOf({ accountId, subjectId }: Subject): string {
  return `${accountId}/${subjectId}`;
}
