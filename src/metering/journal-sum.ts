import { sql } from "slonik";
import { z } from "zod";
import type { Tx } from "../db/pool.ts";
import type { Mode } from "../ledger/store.ts";
import { decodeRow } from "./codec.ts";
import { identity } from "./store.ts";

/** Rows that are read at once: at most some megabytes. */
const rowsMax = 100;

const row = z.object({ position: z.bigint(), codec: z.number(), body: z.instanceof(Buffer) });

/**
 * Sum what the applied part of the journal was charged, from its rows alone: the first of each identity, by mode.
 *
 * Read it in a snapshot.
 */
export async function sumJournal(tx: Tx): Promise<Record<Mode, bigint>> {
  const sums = { live: 0n, test: 0n };
  const seen = new Set<string>();
  for (let after = 0n; ; ) {
    const rows = await tx.any(sql.type(row)`
      select journal.position, codec, body
      from usage_journal as journal join projector_cursors as cursor using (shard)
      where journal.position > ${after} and journal.position <= cursor.position
      order by journal.position limit ${rowsMax}
    `);
    for (const entry of rows.flatMap((one) => decodeRow(one).entries)) {
      if ("chargedNanos" in entry && !seen.has(identity(entry))) {
        seen.add(identity(entry));
        sums[entry.mode] += entry.chargedNanos;
      }
    }
    const last = rows.at(-1);
    if (last === undefined) {
      return sums;
    }
    after = last.position;
  }
}
