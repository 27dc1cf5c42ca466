import type pg from "pg";

/** How far the journal is durable, and applied in all shards, as a session that may read it all sees it. */
export async function readWatermark(
  client: pg.Client,
): Promise<{ durable: bigint; applied: bigint }> {
  const { rows } = await client.query<{ durable: string; applied: string }>(
    `select head.position as durable, min(coalesce(waiting.position - 1, head.position)) as applied
     from journal_head as head
     cross join projector_cursors as cursor
     left join lateral (
       select position from usage_journal
       where shard = cursor.shard and position > cursor.position
       order by position limit 1
     ) as waiting on true
     group by head.position`,
  );
  return { durable: BigInt(rows[0]?.durable ?? 0), applied: BigInt(rows[0]?.applied ?? 0) };
}
