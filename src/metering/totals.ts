import { sql } from "slonik";
import { z } from "zod";
import { type Column, unnestColumns } from "../db/columns.ts";
import { nothing, type Tx } from "../db/pool.ts";
import type { Mode } from "../ledger/store.ts";
import type { NewEvent } from "./decide.ts";
import type { ShareKey } from "./running.ts";

const mode = z.enum(["live", "test"]);
const revenueRow = z.object({
  account_id: z.string(),
  mode,
  fee_basis_points: z.number(),
  gross_nanos: z.bigint(),
});

/** Find what developers earned in a shard so far, by share, before the platform took its part. */
export async function findRevenueTotals(
  tx: Tx,
  { shard, keys }: { shard: number; keys: readonly ShareKey[] },
): Promise<(key: ShareKey) => bigint> {
  const found = await tx.any(sql.prepared("find_revenue_totals", revenueRow)`
    select account_id, mode, fee_basis_points, gross_nanos
    from revenue_totals
    where shard = ${shard} and (account_id, mode, fee_basis_points) in (
      select * from ${unnestColumns(keys, shareColumns)}
    )
  `);
  const gross = new Map(
    found.map((row) => [`${row.account_id} ${row.mode} ${row.fee_basis_points}`, row.gross_nanos]),
  );
  return ({ developerId, mode, feeBasisPoints }) =>
    gross.get(`${developerId} ${mode} ${feeBasisPoints}`) ?? 0n;
}

const shareColumns: Column<ShareKey>[] = [
  { type: "text", of: ({ developerId }) => developerId },
  { type: "text", of: ({ mode }) => mode },
  { type: "int4", of: ({ feeBasisPoints }) => feeBasisPoints },
];

interface Share extends ShareKey {
  gross: bigint;
  fee: bigint;
}

/** Add what was applied to the developers' totals of a shard. */
export async function addRevenueTotals(
  tx: Tx,
  events: readonly NewEvent[],
  shard: number,
): Promise<void> {
  const shares = new Map<string, Share>();
  for (const { entry, feeNanos } of events) {
    const { mode, price } = entry;
    const { developerId, feeBasisPoints } = price;
    const name = `${developerId} ${mode} ${feeBasisPoints}`;
    let share = shares.get(name);
    if (share === undefined) {
      share = { developerId, mode, feeBasisPoints, gross: 0n, fee: 0n };
      shares.set(name, share);
    }
    share.gross += entry.chargedNanos;
    share.fee += feeNanos;
  }
  const columns: Column<Share>[] = [
    ...shareColumns,
    { type: "int8", of: ({ gross }) => gross },
    { type: "int8", of: ({ fee }) => fee },
  ];
  await tx.query(sql.prepared("add_revenue_totals", nothing)`
    insert into revenue_totals as total (
      account_id, mode, fee_basis_points, shard, gross_nanos, fee_nanos
    )
    select account_id, mode, fee_basis_points, ${shard}::int4, gross_nanos, fee_nanos
    from ${unnestColumns([...shares.values()], columns)}
      as added (account_id, mode, fee_basis_points, gross_nanos, fee_nanos)
    on conflict (account_id, mode, fee_basis_points, shard) do update set
      gross_nanos = total.gross_nanos + excluded.gross_nanos,
      fee_nanos = total.fee_nanos + excluded.fee_nanos
  `);
}

const chargeRow = z.object({ account_id: z.string(), mode, charged_nanos: z.bigint() });

/** Find what accounts were charged so far. */
export async function findChargeTotals(
  tx: Tx,
  accountIds: readonly string[],
): Promise<(accountId: string, mode: Mode) => bigint> {
  const found = await tx.any(sql.prepared("find_charge_totals", chargeRow)`
    select account_id, mode, charged_nanos from charge_totals
    where account_id = any(${sql.array([...accountIds], "text")})
  `);
  const charged = new Map(found.map((row) => [`${row.account_id} ${row.mode}`, row.charged_nanos]));
  return (accountId, mode) => charged.get(`${accountId} ${mode}`) ?? 0n;
}

/** Add what was applied to what accounts were charged. */
export async function addChargeTotals(tx: Tx, events: readonly NewEvent[]): Promise<void> {
  const sums = new Map<string, bigint>();
  for (const { entry } of events) {
    const key = `${entry.account} ${entry.mode}`;
    sums.set(key, (sums.get(key) ?? 0n) + entry.chargedNanos);
  }
  const rows = [...sums].map(([key, nanos]) => [...key.split(" "), nanos.toString()]);
  await tx.query(sql.prepared("add_charge_totals", nothing)`
    insert into charge_totals as total (account_id, mode, charged_nanos)
    select * from ${sql.unnest(rows, ["text", "text", "int8"])}
    on conflict (account_id, mode) do update
    set charged_nanos = total.charged_nanos + excluded.charged_nanos
  `);
}

const limitRow = z.object({ account_id: z.string(), limit_nanos: z.bigint() });

/** Find what accounts may owe, for those of which it was said. */
export async function findDebtLimits(
  tx: Tx,
  accountIds: readonly string[],
): Promise<ReadonlyMap<string, bigint>> {
  const found = await tx.any(sql.prepared("find_debt_limits", limitRow)`
    select account_id, limit_nanos from debt_limits
    where account_id = any(${sql.array([...accountIds], "text")})
  `);
  return new Map(found.map((row) => [row.account_id, row.limit_nanos]));
}

const periodRow = z.object({ month: z.string(), closed_position: z.bigint() });

/** Find the months that bills were made of, and the positions that they were closed at. */
export async function findClosedMonths(tx: Tx, from: string): Promise<ReadonlyMap<string, bigint>> {
  const found = await tx.any(sql.prepared("find_closed_months", periodRow)`
    select month::text as month, closed_position from periods where month >= ${from}::date
  `);
  return new Map(found.map((row) => [row.month, row.closed_position]));
}
