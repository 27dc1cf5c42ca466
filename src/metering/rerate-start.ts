import { sql } from "slonik";
import { z } from "zod";
import type { Tx } from "../db/pool.ts";
import { grossKey, type Totals } from "./rerate-event.ts";

const startRow = z.object({ after: z.bigint(), archived: z.bigint() });

const grossRow = z.object({
  shard: z.number(),
  developer: z.string(),
  mode: z.string(),
  basis_points: z.number(),
  gross: z.bigint(),
});

const chargedRow = z.object({ account_id: z.string(), mode: z.string(), charged: z.bigint() });

/**
 * Where re-rating begins: after the rows that are removed, with the totals that there were then.
 *
 * Those are the totals of today less the events after the removed rows. Rows are removed that are archived; those up
 * to `archived` are.
 */
export async function loadStart(
  tx: Tx,
): Promise<{ after: bigint; archived: bigint; totals: Totals }> {
  const { after, archived } = await tx.one(sql.type(startRow)`
    select coalesce((select min(position) - 1 from usage_journal), position) as after,
      coalesce((select max(last_position) from journal_archives), 0)::int8 as archived
    from journal_head
  `);
  const totals: Totals = { gross: new Map(), charged: new Map() };
  if (after === 0n) {
    return { after, archived, totals };
  }
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
  return { after, archived, totals };
}
