import { sql } from "slonik";
import { z } from "zod";
import type { Tx } from "../db/pool.ts";
import {
  type BalanceKey,
  lockBalances,
  type Mode,
  platformAccountId,
  postTransfers,
  type Transfer,
} from "../ledger/store.ts";
import { shareFloor } from "../lib/money.ts";
import type { UsageEntry } from "./entry.ts";

/** An event that costs something, and whether its lease pays for it. */
export interface Charge {
  entry: UsageEntry;
  isLeased: boolean;
}

/**
 * Move the money of applied events: from the consumers' leases and balances to the developers and the platform.
 *
 * Transfers are summed over the range of the journal that was applied together; each event keeps its own share.
 */
export async function chargeEvents(
  tx: Tx,
  batch: { charges: Charge[]; shard: number; first: bigint; last: bigint },
  now: Date,
): Promise<void> {
  const { charges, shard, first, last } = batch;
  const source = { type: "usage", id: `${shard}:${first}-${last}` };
  const leased = sumCharges(charges.filter(({ isLeased }) => isLeased));
  const unleased = sumCharges(charges.filter(({ isLeased }) => !isLeased));
  const developers = await toDevelopers(
    tx,
    charges.map(({ entry }) => entry),
    shard,
  );
  const others = [
    ...leased.map((sum) => toClearing(sum, "lease_escrow", sum.nanos)),
    ...developers,
  ];
  const transfers = [...others, ...(await fromBalances(tx, unleased, others))];
  await postTransfers(
    tx,
    transfers.map((transfer) => ({ ...transfer, source, position: last })),
    now,
  );
}

interface Sum {
  accountId: string;
  mode: Mode;
  nanos: bigint;
}

type Unsourced = Omit<Transfer, "source">;

function sumCharges(charges: Charge[]): Sum[] {
  const sums = new Map<string, Sum>();
  for (const { entry } of charges) {
    const { account, mode, chargedNanos } = entry;
    const key = `${account} ${mode}`;
    const nanos = (sums.get(key)?.nanos ?? 0n) + chargedNanos;
    sums.set(key, { accountId: account, mode, nanos });
  }
  return [...sums.values()];
}

function toClearing(
  { accountId, mode }: Sum,
  debit: "lease_escrow" | "consumer" | "consumer_receivable",
  amountNanos: bigint,
): Unsourced {
  return { accountId, mode, debit, credit: "clearing", amountNanos };
}

/**
 * Usage that was not leased is taken from the balance; what that does not cover, the consumer owes.
 *
 * All that the posting moves is locked at once: a grant to the same consumer locks in the same order.
 */
async function fromBalances(tx: Tx, sums: Sum[], others: Unsourced[]): Promise<Unsourced[]> {
  if (sums.length === 0) {
    return [];
  }
  const balances: BalanceKey[] = [
    ...sums.flatMap(({ accountId, mode }) =>
      (["consumer", "consumer_receivable", "clearing"] as const).map((kind) => ({
        accountId,
        mode,
        kind,
      })),
    ),
    ...others.flatMap(({ accountId, mode, debit, credit }) =>
      [debit, credit].map((kind) => ({ accountId, mode, kind })),
    ),
  ];
  const heldBy = await lockBalances(tx, balances);
  return sums.flatMap((sum) => {
    const has = heldBy({ ...sum, kind: "consumer" });
    const paid = has < sum.nanos ? has : sum.nanos;
    return [
      toClearing(sum, "consumer", paid),
      toClearing(sum, "consumer_receivable", sum.nanos - paid),
    ];
  });
}

const totalRow = z.object({
  account_id: z.string(),
  mode: z.enum(["live", "test"]),
  fee_basis_points: z.number(),
  gross_nanos: z.bigint(),
  fee_nanos: z.bigint(),
});

/** Share what was charged between developers and platform, by the running totals of the shard. */
async function toDevelopers(
  tx: Tx,
  entries: readonly UsageEntry[],
  shard: number,
): Promise<Unsourced[]> {
  const sums = new Map<string, { row: string[]; basisPoints: number; gross: bigint }>();
  for (const { price, mode, chargedNanos } of entries) {
    const { developerId, feeBasisPoints } = price;
    const row = [developerId, mode, String(feeBasisPoints)];
    const gross = (sums.get(row.join(" "))?.gross ?? 0n) + chargedNanos;
    sums.set(row.join(" "), { row, basisPoints: feeBasisPoints, gross });
  }
  const transfers: Unsourced[] = [];
  for (const [, { row, basisPoints, gross }] of [...sums].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const [accountId = "", mode] = row;
    const added = { accountId, mode: mode as Mode, basisPoints, shard, gross };
    const fee = await addRevenueTotal(tx, added);
    const rest = { mode: mode as Mode, debit: "clearing" } as const;
    transfers.push(
      { ...rest, accountId, credit: "payable", amountNanos: gross - fee },
      { ...rest, accountId: platformAccountId, credit: "platform_fee", amountNanos: fee },
    );
  }
  return mergeSame(transfers);
}

/** Add to a developer's total. Returns how much the platform's share of it grew. */
async function addRevenueTotal(
  tx: Tx,
  added: { accountId: string; mode: Mode; basisPoints: number; shard: number; gross: bigint },
): Promise<bigint> {
  const before = await tx.one(sql.type(totalRow)`
    insert into revenue_totals as total (account_id, mode, fee_basis_points, shard, gross_nanos)
    values (
      ${added.accountId}, ${added.mode}, ${added.basisPoints}, ${added.shard}, ${added.gross}
    )
    on conflict (account_id, mode, fee_basis_points, shard) do update
    set gross_nanos = total.gross_nanos + excluded.gross_nanos
    returning account_id, mode, fee_basis_points, gross_nanos, fee_nanos
  `);
  const feeNanos = shareFloor(before.gross_nanos, added.basisPoints);
  await tx.one(sql.type(totalRow)`
    update revenue_totals set fee_nanos = ${feeNanos}
    where account_id = ${added.accountId} and mode = ${added.mode}
      and fee_basis_points = ${added.basisPoints} and shard = ${added.shard}
    returning account_id, mode, fee_basis_points, gross_nanos, fee_nanos
  `);
  return feeNanos - before.fee_nanos;
}

/** One transfer for each pair of kinds and account: a source moves a pair once. */
function mergeSame(transfers: Unsourced[]): Unsourced[] {
  const merged = new Map<string, Unsourced>();
  for (const transfer of transfers) {
    const { accountId, mode, debit, credit } = transfer;
    const key = `${accountId} ${mode} ${debit} ${credit}`;
    const amountNanos = (merged.get(key)?.amountNanos ?? 0n) + transfer.amountNanos;
    merged.set(key, { ...transfer, amountNanos });
  }
  return [...merged.values()];
}
