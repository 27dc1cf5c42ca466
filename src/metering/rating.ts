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

/** An event's share of what its batch moved. */
export interface Share {
  feeNanos: bigint;
  leasedNanos: bigint;
  owedNanos: bigint;
  chargedBeforeNanos: bigint;
}

/**
 * Move the money of applied events: from the consumers' leases and balances to the developers and the platform.
 * Returns each event's share.
 *
 * Transfers are summed over the range of the journal that was applied together; each event keeps its own share.
 */
export async function chargeEvents(
  tx: Tx,
  batch: { charges: Charge[]; shard: number; first: bigint; last: bigint },
  now: Date,
): Promise<(entry: UsageEntry) => Share> {
  const { charges, shard, first, last } = batch;
  const source = { type: "usage", id: `${shard}:${first}-${last}` };
  const leased = sumCharges(charges.filter(({ isLeased }) => isLeased));
  const unleased = sumCharges(charges.filter(({ isLeased }) => !isLeased));
  const { transfers: developers, fees } = await toDevelopers(
    tx,
    charges.map(({ entry }) => entry),
    shard,
  );
  const others = [
    ...leased.map((sum) => toClearing(sum, "lease_escrow", sum.nanos)),
    ...developers,
  ];
  const balances = await fromBalances(tx, unleased, others);
  const transfers = [...others, ...balances];
  await postTransfers(
    tx,
    transfers.map((transfer) => ({ ...transfer, source, position: last })),
    now,
  );
  const before = await addChargeTotals(tx, charges);
  const owed = owedShares(charges, balances);
  const leasing = new Set(charges.flatMap(({ entry, isLeased }) => (isLeased ? [entry] : [])));
  return (entry) => ({
    feeNanos: fees.get(entry) ?? 0n,
    leasedNanos: leasing.has(entry) ? entry.chargedNanos : 0n,
    owedNanos: owed.get(entry) ?? 0n,
    chargedBeforeNanos: before.get(entry) ?? 0n,
  });
}

/** What of each event the balance does not cover: it pays for them in their order. */
function owedShares(charges: Charge[], transfers: Unsourced[]): Map<UsageEntry, bigint> {
  const left = new Map(
    transfers
      .filter(({ debit }) => debit === "consumer")
      .map(({ accountId, mode, amountNanos }) => [`${accountId} ${mode}`, amountNanos]),
  );
  const owed = new Map<UsageEntry, bigint>();
  for (const { entry } of charges.filter(({ isLeased }) => !isLeased)) {
    const key = `${entry.account} ${entry.mode}`;
    const has = left.get(key) ?? 0n;
    const paid = has < entry.chargedNanos ? has : entry.chargedNanos;
    left.set(key, has - paid);
    owed.set(entry, entry.chargedNanos - paid);
  }
  return owed;
}

const chargedRow = z.object({
  account_id: z.string(),
  mode: z.enum(["live", "test"]),
  charged_nanos: z.bigint(),
});

/** Add to what the accounts were charged. Returns what each event's account was charged before it. */
async function addChargeTotals(tx: Tx, charges: Charge[]): Promise<Map<UsageEntry, bigint>> {
  const sums = sumCharges(charges);
  const rows = sums.map(({ accountId, mode, nanos }) => [accountId, mode, nanos.toString()]);
  const totals = await tx.any(sql.type(chargedRow)`
    insert into charge_totals as total (account_id, mode, charged_nanos)
    select * from ${sql.unnest(rows, ["text", "text", "int8"])} as sum (account_id, mode, nanos)
    order by account_id, mode
    on conflict (account_id, mode) do update
    set charged_nanos = total.charged_nanos + excluded.charged_nanos
    returning account_id, mode, charged_nanos
  `);
  const running = new Map(
    totals.map(({ account_id, mode, charged_nanos }) => {
      const sum = sums.find((one) => one.accountId === account_id && one.mode === mode);
      return [`${account_id} ${mode}`, charged_nanos - (sum?.nanos ?? 0n)];
    }),
  );
  const before = new Map<UsageEntry, bigint>();
  for (const { entry } of charges) {
    const key = `${entry.account} ${entry.mode}`;
    before.set(entry, running.get(key) ?? 0n);
    running.set(key, (running.get(key) ?? 0n) + entry.chargedNanos);
  }
  return before;
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
): Promise<{ transfers: Unsourced[]; fees: Map<UsageEntry, bigint> }> {
  const keyOf = ({ price, mode }: UsageEntry) =>
    [price.developerId, mode, String(price.feeBasisPoints)].join(" ");
  const sums = new Map<string, { row: string[]; basisPoints: number; gross: bigint }>();
  for (const entry of entries) {
    const { price, mode, chargedNanos } = entry;
    const { developerId, feeBasisPoints } = price;
    const row = [developerId, mode, String(feeBasisPoints)];
    const gross = (sums.get(keyOf(entry))?.gross ?? 0n) + chargedNanos;
    sums.set(keyOf(entry), { row, basisPoints: feeBasisPoints, gross });
  }
  const fees = new Map<UsageEntry, bigint>();
  const transfers: Unsourced[] = [];
  for (const [, { row, basisPoints, gross }] of [...sums].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const [accountId = "", mode] = row;
    const added = { accountId, mode: mode as Mode, basisPoints, shard, gross };
    const { fee, grossBefore } = await addRevenueTotal(tx, added);
    let running = grossBefore;
    for (const entry of entries.filter(
      (one) => keyOf(one) === [accountId, mode, basisPoints].join(" "),
    )) {
      const next = running + entry.chargedNanos;
      fees.set(entry, shareFloor(next, basisPoints) - shareFloor(running, basisPoints));
      running = next;
    }
    const rest = { mode: mode as Mode, debit: "clearing" } as const;
    transfers.push(
      { ...rest, accountId, credit: "payable", amountNanos: gross - fee },
      { ...rest, accountId: platformAccountId, credit: "platform_fee", amountNanos: fee },
    );
  }
  return { transfers: mergeSame(transfers), fees };
}

/** Add to a developer's total. Returns how much the platform's share of it grew, and what it was. */
async function addRevenueTotal(
  tx: Tx,
  added: { accountId: string; mode: Mode; basisPoints: number; shard: number; gross: bigint },
): Promise<{ fee: bigint; grossBefore: bigint }> {
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
  return { fee: feeNanos - before.fee_nanos, grossBefore: before.gross_nanos - added.gross };
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
