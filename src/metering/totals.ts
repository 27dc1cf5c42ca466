import { sql } from "slonik";
import { z } from "zod";
import { type Column, unnestColumns } from "../db/columns.ts";
import { nothing, type Tx } from "../db/pool.ts";
import type { Mode } from "../ledger/store.ts";
import { branch } from "../lib/branch.ts";
import { inTurns } from "../lib/turns.ts";
import type { NewEvent } from "./decide.ts";
import type { ShareKey } from "./running.ts";

const mode = z.enum(["live", "test"]);

/** What holds before a batch is applied. */
export interface Standing {
  /** What a developer earned in the shard so far, by share, before the platform took its part. */
  grossOf(key: ShareKey): bigint;
  /** What an account was charged so far. */
  chargedOf(accountId: string, mode: Mode): bigint;
  /** What accounts may owe, of those for which it was said. */
  debtLimits: ReadonlyMap<string, bigint>;
  /** The months that bills were made of, and the positions that they were closed at. */
  closed: ReadonlyMap<string, bigint>;
}

const standingRow = z.object({
  kind: z.enum(["gross", "charged", "debt_limit", "closed"]),
  name: z.string(),
  mode: mode.nullable(),
  fee_basis_points: z.number().nullable(),
  value: z.bigint(),
});

/** Find what holds for shares of a shard, for accounts, and from a month on. */
export async function findStanding(
  tx: Tx,
  of: {
    shard: number;
    shares: readonly ShareKey[];
    accountIds: readonly string[];
    firstMonth: string;
  },
): Promise<Standing> {
  const accountIds = sql.array([...of.accountIds], "text");
  const rows = await tx.any(sql.prepared("find_standing", standingRow)`
    select 'gross' as kind, account_id as name, mode, fee_basis_points, gross_nanos as value
    from revenue_totals
    where shard = ${of.shard} and (account_id, mode, fee_basis_points) in (
      select * from ${unnestColumns(of.shares, shareColumns)}
    )
    union all
    select 'charged', account_id, mode, null, charged_nanos from charge_totals
    where account_id = any(${accountIds})
    union all
    select 'debt_limit', account_id, null, null, limit_nanos from debt_limits
    where account_id = any(${accountIds})
    union all
    select 'closed', month::text, null, null, closed_position from periods
    where month >= ${of.firstMonth}::date
  `);
  const values = new Map(
    rows.map((row) => [nameOf(row.kind, row.name, row.mode, row.fee_basis_points), row.value]),
  );
  const listed = (kind: string) =>
    new Map(rows.filter((row) => row.kind === kind).map(({ name, value }) => [name, value]));
  return {
    grossOf: (key) =>
      values.get(nameOf("gross", key.developerId, key.mode, key.feeBasisPoints)) ?? 0n,
    chargedOf: (accountId, mode) => values.get(nameOf("charged", accountId, mode, null)) ?? 0n,
    debtLimits: listed("debt_limit"),
    closed: listed("closed"),
  };
}

function nameOf(kind: string, name: string, mode: Mode | null, feeBasisPoints: number | null) {
  return `${kind} ${name} ${mode} ${feeBasisPoints}`;
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

/** What an account was charged. */
interface Charge {
  accountId: string;
  mode: Mode;
  nanos: bigint;
}

/** Add what was applied to the developers' totals of a shard, and to what accounts were charged. */
export async function addTotals(tx: Tx, events: readonly NewEvent[], shard: number): Promise<void> {
  const shares: Share[] = [];
  const charges: Charge[] = [];
  const shareAt = new Map<string, Map<Mode, Map<number, Share>>>();
  const chargeAt = new Map<string, Map<Mode, Charge>>();
  await inTurns(events, ({ entry, feeNanos }) => {
    const { account: accountId, mode, price, chargedNanos } = entry;
    const { developerId, feeBasisPoints } = price;
    const byFee = branch(branch(shareAt, developerId), mode);
    let share = byFee.get(feeBasisPoints);
    if (share === undefined) {
      share = { developerId, mode, feeBasisPoints, gross: 0n, fee: 0n };
      byFee.set(feeBasisPoints, share);
      shares.push(share);
    }
    share.gross += chargedNanos;
    share.fee += feeNanos;
    const byMode = branch(chargeAt, accountId);
    let charge = byMode.get(mode);
    if (charge === undefined) {
      charge = { accountId, mode, nanos: 0n };
      byMode.set(mode, charge);
      charges.push(charge);
    }
    charge.nanos += chargedNanos;
  });
  await tx.query(sql.prepared("add_totals", nothing)`
    with charged as (
      insert into charge_totals as total (account_id, mode, charged_nanos)
      select * from ${unnestColumns(charges, chargeColumns)}
      on conflict (account_id, mode) do update
      set charged_nanos = total.charged_nanos + excluded.charged_nanos
    )
    insert into revenue_totals as total (
      account_id, mode, fee_basis_points, shard, gross_nanos, fee_nanos
    )
    select account_id, mode, fee_basis_points, ${shard}::int4, gross_nanos, fee_nanos
    from ${unnestColumns(shares, shareSumColumns)}
      as added (account_id, mode, fee_basis_points, gross_nanos, fee_nanos)
    on conflict (account_id, mode, fee_basis_points, shard) do update set
      gross_nanos = total.gross_nanos + excluded.gross_nanos,
      fee_nanos = total.fee_nanos + excluded.fee_nanos
  `);
}

const shareSumColumns: Column<Share>[] = [
  ...shareColumns,
  { type: "int8", of: ({ gross }) => gross },
  { type: "int8", of: ({ fee }) => fee },
];

const chargeColumns: Column<Charge>[] = [
  { type: "text", of: ({ accountId }) => accountId },
  { type: "text", of: ({ mode }) => mode },
  { type: "int8", of: ({ nanos }) => nanos },
];

const periodRow = z.object({ month: z.string(), closed_position: z.bigint() });

/** Find the months that bills were made of, and the positions that they were closed at. */
export async function findClosedMonths(tx: Tx, from: string): Promise<ReadonlyMap<string, bigint>> {
  const found = await tx.any(sql.type(periodRow)`
    select month::text as month, closed_position from periods where month >= ${from}::date
  `);
  return new Map(found.map((row) => [row.month, row.closed_position]));
}
