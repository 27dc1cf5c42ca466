import { platformAccountId } from "../ledger/store.ts";
import { chain, emptyChain } from "./rate.ts";
import type { Difference } from "./rerate-event.ts";
import type { ProjectionRow, StoredEvent, UsageTransferRow } from "./rerate-store.ts";

/** The transfers that the shares of a batch's events add up to. */
interface Batch {
  shard: number;
  last: bigint;
  /** Earlier versions did not keep what paid for an event: of their batches a consumer's transfers are one sum. */
  isExact: boolean;
  /** By account, mode, debit kind and credit kind. */
  sums: Map<string, bigint>;
  /** Consumers, by account and mode, whose balance is spent. */
  spent: Set<string>;
  /** The smallest charge, by lease, that was more than what was left of it. */
  tooMuch: Map<string, bigint>;
}

/** The batches whose transfers are not compared yet. */
export type Batches = Map<string, Batch>;

/**
 * Add an event's shares to the transfers of its batch. Returns what cannot have paid for it, since leases pay for all
 * of an event or nothing, and neither leases nor balances grow within a batch. Null: it may be so.
 */
export function addShares(
  batches: Batches,
  event: StoredEvent,
  { isExact }: Pick<Batch, "isExact">,
): Omit<Difference, "where"> | null {
  const { shard, batch_position: last, account_id, developer_account_id, mode } = event;
  const key = `${shard}:${last}`;
  const batch = batches.get(key) ?? {
    ...{ shard, last, isExact, sums: new Map<string, bigint>() },
    ...{ spent: new Set<string>(), tooMuch: new Map<string, bigint>() },
  };
  batches.set(key, batch);
  const { sums } = batch;
  const paid = event.charged_nanos - event.leased_nanos - event.owed_nanos;
  const earned = event.charged_nanos - event.fee_nanos;
  const shares: [string, bigint][] = [
    [`${account_id} ${mode} lease_escrow clearing`, event.leased_nanos],
    [`${account_id} ${mode} consumer clearing`, paid],
    [`${account_id} ${mode} consumer_receivable clearing`, event.owed_nanos],
    [`${developer_account_id} ${mode} clearing payable`, earned],
    [`${platformAccountId} ${mode} clearing platform_fee`, event.fee_nanos],
  ];
  for (const [transfer, nanos] of shares.filter(([, amount]) => amount !== 0n)) {
    const name = nameOf(transfer, isExact);
    sums.set(name, (sums.get(name) ?? 0n) + nanos);
  }
  return isExact ? comparePayment(batch, event) : null;
}

function comparePayment(batch: Batch, event: StoredEvent): Omit<Difference, "where"> | null {
  const { account_id, mode, lease_id, charged_nanos: charged, leased_nanos, owed_nanos } = event;
  const purse = `${account_id} ${mode}`;
  const lease = `${purse} ${lease_id}`;
  const tooMuch = batch.tooMuch.get(lease);
  if (leased_nanos > 0n) {
    const mayLease = lease_id !== null && (tooMuch === undefined || charged < tooMuch);
    const computed = mayLease ? charged : 0n;
    return leased_nanos === computed
      ? null
      : { field: "leased_nanos", stored: `${leased_nanos}`, computed: `${computed}` };
  }
  if (charged > 0n && lease_id !== null && (tooMuch === undefined || charged < tooMuch)) {
    batch.tooMuch.set(lease, charged);
  }
  if (batch.spent.has(purse) && owed_nanos !== charged) {
    return { field: "owed_nanos", stored: `${owed_nanos}`, computed: `${charged}` };
  }
  if (owed_nanos > 0n) {
    batch.spent.add(purse);
  }
  return null;
}

function nameOf(transfer: string, isExact: boolean): string {
  return isExact
    ? transfer
    : transfer.replace(/(?:lease_escrow|consumer_receivable) clearing$/, "consumer clearing");
}

/** Whose transfers have to be read for the batches, and from which positions. */
export function accountsOf(batches: readonly Batch[]): { account: string; position: bigint }[] {
  return batches.flatMap(({ last, sums }) =>
    [...sums.keys()].map((key) => ({ account: key.split(" ")[0] ?? "", position: last })),
  );
}

/** Batches and transfers without those of batches whose first rows are removed: what is left does not add up. */
export function withoutCut(
  batches: readonly Batch[],
  rows: readonly UsageTransferRow[],
  after: bigint,
): { batches: Batch[]; rows: UsageTransferRow[] } {
  const isCut = ({ source_id }: UsageTransferRow) => {
    const [, first] = /:(\d+)-/.exec(source_id) ?? [];
    return first !== undefined && BigInt(first) <= after;
  };
  const cut = new Set(rows.filter(isCut).map(batchOf));
  return {
    batches: batches.filter(({ shard, last }) => !cut.has(`${shard}:${last}`)),
    rows: rows.filter((row) => !isCut(row)),
  };
}

function batchOf({ source_id, position }: UsageTransferRow): string {
  return `${source_id.split(":")[0]}:${position}`;
}

/** Compare batches with their transfers. Returns what differs, in the journal's order. */
export function compareTransfers(
  batches: readonly Batch[],
  rows: readonly UsageTransferRow[],
): Difference[] {
  const stored = Map.groupBy(rows, batchOf);
  return batches.flatMap(({ shard, last, isExact, sums }) => {
    const found = new Map<string, bigint>();
    for (const row of stored.get(`${shard}:${last}`) ?? []) {
      const { account_id, mode, debit_kind, credit_kind, amount_nanos } = row;
      const name = nameOf(`${account_id} ${mode} ${debit_kind} ${credit_kind}`, isExact);
      found.set(name, (found.get(name) ?? 0n) + amount_nanos);
    }
    return [...new Set([...sums.keys(), ...found.keys()])].flatMap((key) => {
      const [left, right] = [found.get(key) ?? 0n, sums.get(key) ?? 0n];
      const where = `ledger_transfers, batch ${shard}:…-${last}`;
      return left === right ? [] : [{ where, field: key, stored: `${left}`, computed: `${right}` }];
    });
  });
}

/** What was found of one batch of one shard. */
export interface Found {
  events: number;
  duplicates: number;
  conflicts: number;
  quarantined: number;
  chargedLive: bigint;
  chargedTest: bigint;
  fees: bigint;
  hash: Buffer;
}

/** Nothing found yet after a hash; without one after the shard's first. */
export function nothingFound(hash: Buffer | undefined): Found {
  const counts = { events: 0, duplicates: 0, conflicts: 0, quarantined: 0 };
  return { ...counts, chargedLive: 0n, chargedTest: 0n, fees: 0n, hash: hash ?? emptyChain };
}

/** Add an applied event to what was found of its batch. */
export function addFound(
  found: Found,
  {
    mode,
    chargedNanos,
    feeNanos,
    line,
  }: {
    mode: "live" | "test";
    chargedNanos: bigint;
    feeNanos: bigint;
    line: string;
  },
): void {
  found.events += 1;
  found.chargedLive += mode === "live" ? chargedNanos : 0n;
  found.chargedTest += mode === "test" ? chargedNanos : 0n;
  found.fees += feeNanos;
  found.hash = chain(found.hash, [line]);
}

/** The first difference between what a batch's row says and what was found. */
export function compareProjection(row: ProjectionRow, found: Found): Difference | null {
  const fields: [string, unknown, unknown][] = [
    ["events", row.events, found.events],
    ["duplicates", row.duplicates, found.duplicates],
    ["conflicts", row.conflicts, found.conflicts],
    ["quarantined", row.quarantined, found.quarantined],
    ["charged_live_nanos", row.charged_live_nanos, found.chargedLive],
    ["charged_test_nanos", row.charged_test_nanos, found.chargedTest],
    ["fee_nanos", row.fee_nanos, found.fees],
    ["rating_hash", row.rating_hash.toString("hex"), found.hash.toString("hex")],
  ];
  const wrong = fields.find(([, left, right]) => left !== right);
  if (wrong === undefined) {
    return null;
  }
  const where = `projections, batch ${row.shard}:${row.first_position}-${row.last_position}`;
  return { where, field: wrong[0], stored: String(wrong[1]), computed: String(wrong[2]) };
}
