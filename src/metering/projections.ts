import { sql } from "slonik";
import { rememberRules } from "../catalog/price-rule.ts";
import { nothing, type Tx } from "../db/pool.ts";
import { beginTurn } from "../lib/turns.ts";
import type { Decision } from "./decide.ts";
import { chain, ratingLine } from "./rate.ts";

/** What was applied together. */
export interface Batch {
  shard: number;
  fence: bigint;
  /** The positions of its first and of its last row. */
  first: bigint;
  last: bigint;
  /** What the shard's chain of ratings goes on from. */
  ratingHash: Buffer;
}

/** What came of a batch. */
export interface Counts {
  events: number;
  duplicates: number;
  conflicts: number;
  quarantined: number;
}

/** Ratings that are chained before others may have their turn. */
const linesAtOnce = 100;

/** Note what came of a batch, and go on with the shard's chain of ratings. */
export async function insertProjection(
  tx: Tx,
  batch: Batch,
  { counts, applied, now }: { counts: Counts; applied: Decision["applied"]; now: Date },
): Promise<void> {
  let hash = batch.ratingHash;
  const readRule = rememberRules();
  const turn = beginTurn(1);
  for (let begin = 0; begin < applied.length; begin += linesAtOnce) {
    const some = applied.slice(begin, begin + linesAtOnce);
    hash = chain(
      hash,
      some.map((one) => ratingLine(one, readRule)),
    );
    if (turn.isOver()) {
      await turn.next();
    }
  }
  const sums = { live: 0n, test: 0n, fee: 0n };
  for (const { entry, feeNanos } of applied) {
    sums[entry.mode] += entry.chargedNanos;
    sums.fee += feeNanos;
  }
  await tx.query(sql.prepared("insert_projection", nothing)`
    insert into projections (
      shard, last_position, first_position, applied_at, fence, events, duplicates, conflicts,
      quarantined, charged_live_nanos, charged_test_nanos, fee_nanos, rating_hash
    )
    values (
      ${batch.shard}, ${batch.last}, ${batch.first}, ${now.toISOString()}, ${batch.fence},
      ${counts.events}, ${counts.duplicates}, ${counts.conflicts}, ${counts.quarantined},
      ${sums.live}, ${sums.test}, ${sums.fee},
      ${sql.binary(hash)}
    )
  `);
}

/** What others are to be told of a batch. */
export interface Message {
  accountId: string;
  topic: "usage.quarantined" | "usage.owed" | "credits.low_balance" | "credits.purchase_paid";
  payload: Readonly<Record<string, string | number>>;
}

/** Leave messages for the loops that tell others. */
export async function insertMessages(
  tx: Tx,
  messages: readonly Message[],
  shard: number,
): Promise<void> {
  if (messages.length === 0) {
    return;
  }
  const rows = messages.map(({ accountId, topic, payload }) => [
    accountId,
    topic,
    JSON.stringify(payload),
  ]);
  await tx.query(sql.type(nothing)`
    insert into outbox (shard, account_id, topic, payload)
    select ${shard}::int4, account_id, topic, payload
    from ${sql.unnest(rows, ["text", "text", "jsonb"])} as message (account_id, topic, payload)
  `);
}
