import { sql } from "slonik";
import { nothing, type Tx } from "../db/pool.ts";
import type { Mode } from "../ledger/store.ts";
import type { Place } from "./entry.ts";

/** An entry that is not applied, and why. */
export interface Quarantined {
  shard: number;
  place: Place;
  /** Empty when it cannot be read. */
  accountId: string;
  mode: Mode;
  reason: "MALFORMED" | "CONFLICT" | "POISONED" | "OVER_LIMIT";
  detail: string;
  /** A journal row of the one entry, or the bytes as they came of what cannot be read. */
  raw: Buffer;
  /** What it would have been charged. */
  chargedNanos: bigint;
}

/** Keep entries that are not applied, as they came. */
export async function insertQuarantine(tx: Tx, events: readonly Quarantined[]): Promise<void> {
  if (events.length === 0) {
    return;
  }
  const rows = events.map((event) => [
    event.shard,
    event.place.position.toString(),
    event.place.ordinal,
    event.accountId,
    event.mode,
    event.reason,
    event.detail,
    event.raw,
    event.chargedNanos.toString(),
  ]);
  await tx.query(sql.type(nothing)`
    insert into usage_quarantine (
      shard, position, ordinal, account_id, mode, reason, detail, raw, charged_nanos
    )
    select * from ${sql.unnest(rows, [
      "int4",
      "int8",
      "int4",
      "text",
      "text",
      "text",
      "text",
      "bytea",
      "int8",
    ])}
  `);
}
