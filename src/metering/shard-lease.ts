import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Tx } from "../db/pool.ts";

/** Leave to apply a shard. Whoever has an older fence applies nothing more. */
export interface ShardLease {
  shard: number;
  holder: string;
  fence: bigint;
}

/** How long a lease lasts after its last sign of life. By the database's clock: it is the one that all share. */
export const shardLeaseMs = 5_000;

const fenceRow = z.object({ fence: z.bigint() });

/**
 * Claim a shard that nobody holds, or whose holder gave no sign of life for its lease. Null when another one has it.
 *
 * A row that is locked belongs to a holder in the middle of its work, whatever its lease says.
 */
export async function claimShard(
  tx: Tx,
  { shard, holder, leaseMs }: { shard: number; holder: string; leaseMs: number },
): Promise<ShardLease | null> {
  const row = await tx.maybeOne(sql.type(fenceRow)`
    update projector_cursors
    set holder = ${holder}, fence = fence + 1,
      lease_end = clock_timestamp() + ${leaseMs}::int4 * interval '1 ms'
    where shard = (
      select shard from projector_cursors
      where shard = ${shard} and lease_end < clock_timestamp()
      for update skip locked
    )
    returning fence
  `);
  return row === null ? null : { shard, holder, fence: row.fence };
}

/** Give a sign of life. False: another one holds the shard. */
export async function renewShard(tx: Tx, lease: ShardLease, leaseMs: number): Promise<boolean> {
  const row = await tx.maybeOne(sql.type(fenceRow)`
    update projector_cursors
    set lease_end = clock_timestamp() + ${leaseMs}::int4 * interval '1 ms'
    where shard = ${lease.shard} and holder = ${lease.holder} and fence = ${lease.fence}
    returning fence
  `);
  return row !== null;
}

/** Let others claim the shard at once. */
export async function releaseShard(tx: Tx, { shard, holder, fence }: ShardLease): Promise<void> {
  await tx.query(sql.type(nothing)`
    update projector_cursors set lease_end = '-infinity', holder = null
    where shard = ${shard} and holder = ${holder} and fence = ${fence}
  `);
}
