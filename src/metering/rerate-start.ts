import { sql } from "slonik";
import { z } from "zod";
import type { Tx } from "../db/pool.ts";
import { grossKey, type Totals } from "./rerate-event.ts";

const startRow = z.object({
  after: z.bigint(),
  archived: z.bigint(),
  checkpoint: z.record(z.string(), z.object({ hash: z.string() })).nullable(),
});

const grossRow = z.object({
  shard: z.number(),
  developer: z.string(),
  mode: z.string(),
  basis_points: z.number(),
  gross: z.bigint(),
});

const chargedRow = z.object({ account_id: z.string(), mode: z.string(), charged: z.bigint() });

/** Where re-rating begins. */
export interface Start {
  after: bigint;
  /** Rows up to here are archived. */
  archived: bigint;
  totals: Totals;
  /** What each shard's chain of ratings had come to. Null: nobody noted it. */
  hashes: Map<number, Buffer> | null;
}

/**
 * Where re-rating begins: after the archive of which rows are removed, with the totals that there were then.
 *
 * Those are the totals of today less the events after it. The rows of an archive are removed some at a time: what is
 * left of it is passed by, since the archive's sums hold it.
 */
export async function loadStart(tx: Tx): Promise<Start> {
  const { after, archived, checkpoint } = await tx.one(sql.type(startRow)`
    select coalesce(archive.last_position, removed.position)::int8 as after,
      coalesce((select max(last_position) from journal_archives), 0)::int8 as archived,
      archive.checkpoint
    from journal_head as head
    cross join lateral (
      select coalesce((select min(position) - 1 from usage_journal), head.position) as position
    ) as removed
    left join journal_archives as archive
      on removed.position between archive.first_position and archive.last_position
  `);
  const totals: Totals = { gross: new Map(), charged: new Map() };
  if (after === 0n) {
    return { after, archived, totals, hashes: new Map() };
  }
  const hashes =
    checkpoint === null
      ? null
      : new Map(
          Object.entries(checkpoint).map(([shard, { hash }]) => [
            Number(shard),
            Buffer.from(hash, "hex"),
          ]),
        );
  const gross = await tx.any(sql.type(grossRow)`
    select total.shard, total.account_id as developer, total.mode,
      total.fee_basis_points as basis_points,
      (total.gross_nanos - coalesce(sum(event.charged_nanos), 0))::int8 as gross
    from revenue_totals as total
    left join usage_events as event on event.developer_account_id = total.account_id
      and event.mode = total.mode and event.fee_basis_points = total.fee_basis_points
      and event.shard = total.shard and event.position > ${after}
    group by total.shard, total.account_id, total.mode, total.fee_basis_points, total.gross_nanos
  `);
  for (const { shard, developer, mode, basis_points: basisPoints, gross: nanos } of gross) {
    totals.gross.set(grossKey(shard, { developer, mode, basisPoints }), nanos);
  }
  const charged = await tx.any(sql.type(chargedRow)`
    select total.account_id, total.mode,
      (total.charged_nanos - coalesce(sum(event.charged_nanos), 0))::int8 as charged
    from charge_totals as total
    left join usage_events as event on event.account_id = total.account_id
      and event.mode = total.mode and event.position > ${after}
    group by total.account_id, total.mode, total.charged_nanos
  `);
  for (const { account_id, mode, charged: nanos } of charged) {
    totals.charged.set(`${account_id} ${mode}`, nanos);
  }
  return { after, archived, totals, hashes };
}
