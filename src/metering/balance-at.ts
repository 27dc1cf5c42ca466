import { Code } from "@connectrpc/connect";
import { sql } from "slonik";
import { z } from "zod";
import type { Tx } from "../db/pool.ts";
import { addMoved, type Moved } from "../ledger/balance.ts";
import { listBalances } from "../ledger/statements.ts";
import { type Kind, type Mode, platformAccountId } from "../ledger/store.ts";
import { failedPrecondition, reasoned } from "../rpc/errors.ts";
import { getWatermark } from "./journal.ts";

/** Whose money, and up to where in the journal. */
export interface BalanceQuery {
  accountId: string;
  mode: Mode;
  position: bigint;
}

/**
 * What an account's money had moved, by kind, when the journal was applied up to a position and no further.
 *
 * Usage counts event by event. All else counts from the position that was durable when it was posted. So the kinds of
 * all accounts balance at every position. FAILED_PRECONDITION, with reason NOT_APPLIED, beyond the watermark;
 * OUT_OF_RANGE, with reason POSITION_EXPIRED, within a batch whose events are removed. For the server's own role.
 */
export async function balancesAt(tx: Tx, of: BalanceQuery): Promise<ReadonlyMap<string, Moved>> {
  const { applied } = await getWatermark(tx);
  if (of.position > applied) {
    const message = `Cannot show balances as of ${of.position}: the journal is applied up to ${applied}`;
    throw failedPrecondition("NOT_APPLIED", message);
  }
  const whole = await listBalances(tx, { ...of, upTo: of.position });
  return addMoved(whole, await balanceCut(tx, of));
}

const batchRow = z.object({ shard: z.number(), first: z.bigint(), last: z.bigint() });

/**
 * What the events up to a position moved whose transfers count from a later one: those of batches that the position
 * cuts. At most one batch of each shard.
 */
export async function balanceCut(tx: Tx, of: BalanceQuery): Promise<ReadonlyMap<string, Moved>> {
  const { accountId, mode, position } = of;
  const batches = await tx.any(sql.type(batchRow)`
    select cursor.shard, next.first, next.last
    from projector_cursors as cursor
    cross join lateral (
      select position as last,
        split_part(split_part(source_id, ':', 2), '-', 1)::int8 as first
      from ledger_transfers
      where account_id = ${accountId} and mode = ${mode} and position > ${position}
        and source_type = 'usage' and source_id like cursor.shard || ':%'
      order by position limit 1
    ) as next
    where next.first <= ${position}
  `);
  if (batches.length > 0 && position < (await lastRemoved(tx))) {
    const message = `Cannot show balances as of ${position}: events around it are removed`;
    throw reasoned(Code.OutOfRange, { reason: "POSITION_EXPIRED", message });
  }
  let moved: ReadonlyMap<string, Moved> = new Map();
  for (const batch of batches) {
    moved = addMoved(moved, await sumShares(tx, { ...of, ...batch }));
  }
  return moved;
}

const positionRow = z.object({ position: z.bigint() });

async function lastRemoved(tx: Tx): Promise<bigint> {
  const row = await tx.one(sql.type(positionRow)`
    select coalesce(max(last_position), 0)::int8 as position from usage_partition_totals
  `);
  return row.position;
}

const sharesRow = z.object({
  leased: z.bigint(),
  paid: z.bigint(),
  owed: z.bigint(),
  earned: z.bigint(),
  fee: z.bigint(),
});

/** The shares of a batch's events up to a position that the account has as consumer, as developer, as platform. */
async function sumShares(
  tx: Tx,
  { accountId, mode, position, shard, first, last }: BalanceQuery & z.infer<typeof batchRow>,
): Promise<ReadonlyMap<string, Moved>> {
  const ofBatch = sql.fragment`
    mode = ${mode} and shard = ${shard} and batch_position = ${last}
    and position between ${first} and ${position}
  `;
  const shares = await tx.one(sql.type(sharesRow)`
    select consumer.leased, consumer.paid, consumer.owed, developer.earned, platform.fee
    from (
      select coalesce(sum(leased_nanos), 0)::int8 as leased,
        coalesce(sum(charged_nanos - leased_nanos - owed_nanos), 0)::int8 as paid,
        coalesce(sum(owed_nanos), 0)::int8 as owed
      from usage_events where account_id = ${accountId} and ${ofBatch}
    ) as consumer
    cross join (
      select coalesce(sum(charged_nanos - fee_nanos), 0)::int8 as earned
      from usage_events where developer_account_id = ${accountId} and ${ofBatch}
    ) as developer
    cross join (
      select coalesce(sum(fee_nanos), 0)::int8 as fee
      from usage_events where ${accountId} = ${platformAccountId} and ${ofBatch}
    ) as platform
  `);
  const transfers: [Kind, Kind, bigint][] = [
    ["lease_escrow", "clearing", shares.leased],
    ["consumer", "clearing", shares.paid],
    ["consumer_receivable", "clearing", shares.owed],
    ["clearing", "payable", shares.earned],
    ["clearing", "platform_fee", shares.fee],
  ];
  let moved: ReadonlyMap<string, Moved> = new Map();
  for (const [debit, credit, nanos] of transfers.filter(([, , amount]) => amount > 0n)) {
    moved = addMoved(moved, new Map([[debit, { debitsNanos: nanos, creditsNanos: 0n }]]));
    moved = addMoved(moved, new Map([[credit, { debitsNanos: 0n, creditsNanos: nanos }]]));
  }
  return moved;
}
