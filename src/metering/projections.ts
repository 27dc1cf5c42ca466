import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Tx } from "../db/pool.ts";
import { monthOf, type UsageEntry } from "./entry.ts";
import { chain, emptyChain, ratingLine } from "./rate.ts";
import type { Share } from "./rating.ts";

const hashRow = z.object({ rating_hash: z.instanceof(Buffer) });

/** Keep what was applied together, and the chain of its events' canonical lines. */
export async function insertProjection(
  tx: Tx,
  batch: {
    shard: number;
    first: bigint;
    last: bigint;
    /** The applied ones, in the journal's order. */
    entries: readonly UsageEntry[];
    shareOf: (entry: UsageEntry) => Share;
    duplicates: number;
    conflicts: number;
    quarantined: number;
  },
  now: Date,
): Promise<void> {
  const { entries, shareOf } = batch;
  const before = await tx.maybeOne(sql.type(hashRow)`
    select rating_hash from projections where shard = ${batch.shard}
    order by last_position desc limit 1
  `);
  const lines = entries.map((entry) =>
    ratingLine({
      entry,
      feeNanos: shareOf(entry).feeNanos,
      bookedMonth: monthOf(entry.timeMicros),
    }),
  );
  const charged = (mode: string) =>
    entries.reduce((sum, one) => (one.mode === mode ? sum + one.chargedNanos : sum), 0n);
  const fees = entries.reduce((sum, one) => sum + shareOf(one).feeNanos, 0n);
  await tx.query(sql.type(nothing)`
    insert into projections (
      shard, first_position, last_position, applied_at, fence, events, duplicates, conflicts,
      quarantined, charged_live_nanos, charged_test_nanos, fee_nanos, rating_hash
    ) values (
      ${batch.shard}, ${batch.first}, ${batch.last}, ${now.toISOString()}, 0, ${entries.length},
      ${batch.duplicates}, ${batch.conflicts}, ${batch.quarantined}, ${charged("live")},
      ${charged("test")}, ${fees},
      ${sql.binary(chain(before?.rating_hash ?? emptyChain, lines))}
    )
  `);
}
