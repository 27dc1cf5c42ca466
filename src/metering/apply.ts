import { type BurningCharge, burnGrants } from "../credits/burn.ts";
import { type LeaseKey, type LeaseSpending, lockLeases, spendLeases } from "../credits/leases.ts";
import type { Tx } from "../db/pool.ts";
import { lockBalances, postTransfers } from "../ledger/store.ts";
import { addBillLines } from "./bill-lines.ts";
import { payingBalances, transfersOf } from "./charge.ts";
import {
  type Candidate,
  type Decision,
  decide,
  findFirst,
  isReplay,
  monthsOf,
  type NewEvent,
  type StoredEvent,
} from "./decide.ts";
import { monthOf } from "./entry.ts";
import { addRepeats, findStored, type Identity, insertEvents } from "./event-store.ts";
import { createFunds, type Means } from "./funds.ts";
import { addMeters } from "./meter-rollup.ts";
import type { Batch } from "./projections.ts";
import { addRollups } from "./rollup.ts";
import { createRunning, type ShareKey } from "./running.ts";
import {
  addChargeTotals,
  addRevenueTotals,
  findChargeTotals,
  findClosedMonths,
  findDebtLimits,
  findRevenueTotals,
} from "./totals.ts";

/** How usage is applied. */
export interface ApplyOptions {
  /** What an account may owe of which nothing else was said. */
  debtLimitNanos: bigint;
  now: Date;
  /** Tells groups of one batch apart that are only tried. Empty for the batch itself. */
  trial: string;
}

/**
 * Apply usage, in the journal's order: events, sums, and the money. Returns what was decided of each; what is refused
 * has no effect but that.
 *
 * Leases are locked before balances. Of these the consumers' come first, and are of this shard alone; what developers
 * and the platform earn is locked last, so that shards wait for each other only while they end.
 */
export async function applyUsage(
  tx: Tx,
  batch: Batch,
  candidates: readonly Candidate[],
  options: ApplyOptions,
): Promise<Decision> {
  if (candidates.length === 0) {
    return { applied: [], repeated: [], refused: [] };
  }
  const { shard, last: batchPosition } = batch;
  const stored = await findKnown(tx, candidates);
  // What is not stored may be applied; what is stored costs nothing.
  const charged = candidates.filter(
    (one) => one.entry.chargedNanos > 0n && findFirst(one, stored) === undefined,
  );
  const funds = createFunds(await lockMeans(tx, charged, options));
  const running = createRunning(await findTotals(tx, candidates, shard));
  const closed = await findClosedMonths(tx, firstMonth(candidates));
  const known = { shard, batchPosition, stored, funds, running, closed };
  const decision = decide(candidates, known);
  await store(tx, batch, decision, options);
  return decision;
}

async function store(
  tx: Tx,
  batch: Batch,
  { applied, repeated }: Decision,
  { now, trial }: ApplyOptions,
): Promise<void> {
  const { shard, first, last } = batch;
  await addRepeats(tx, repeated);
  if (applied.length === 0) {
    return;
  }
  await insertEvents(tx, applied, { shard, batchPosition: last });
  await addRollups(tx, applied);
  await addMeters(tx, { applied, voided: [] });
  await addBillLines(tx, applied);
  const charged = applied.filter(({ entry }) => entry.chargedNanos > 0n);
  if (charged.length === 0) {
    return;
  }
  await addRevenueTotals(tx, charged, shard);
  await addChargeTotals(tx, charged);
  await spendLeases(tx, spendingOf(charged));
  await burnGrants(tx, charged.map(burningOf));
  const source = { type: "usage", id: `${shard}:${first}-${last}${trial}` };
  const transfers = transfersOf(charged).map((one) => ({ ...one, source, position: last }));
  await postTransfers(tx, transfers, now);
}

/** What is owed burns nothing: the credit that repays it does. */
function burningOf({ entry, receivedAt, chargedBefore, owedNanos }: NewEvent): BurningCharge {
  return {
    accountId: entry.account,
    mode: entry.mode,
    at: receivedAt,
    fromNanos: chargedBefore,
    nanos: entry.chargedNanos - owedNanos,
  };
}

/** What is stored of the candidates' identities: of those that come back from quarantine of any month. */
async function findKnown(
  tx: Tx,
  candidates: readonly Candidate[],
): Promise<ReadonlyMap<string, readonly StoredEvent[]>> {
  const months = monthsOf(candidates);
  const stored = await findStored(tx, { identities: distinctIdentities(candidates), months });
  const replays = candidates.filter(isReplay);
  if (replays.length === 0) {
    return stored;
  }
  const ever = await findStored(tx, { identities: distinctIdentities(replays), months: null });
  return new Map([...stored, ...ever]);
}

function distinctIdentities(candidates: readonly Candidate[]): Identity[] {
  const identities = new Map<string, Identity>();
  for (const { entry, key, identity } of candidates) {
    identities.set(identity, { accountId: entry.account, key });
  }
  // In the order of the index.
  return [...identities].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, identity]) => identity);
}

/** Lock what pays for candidates. */
async function lockMeans(
  tx: Tx,
  charged: readonly Candidate[],
  { debtLimitNanos }: ApplyOptions,
): Promise<Means> {
  const leftOf = await lockLeases(tx, leasesOf(charged));
  const keys = payingBalances(charged, leftOf);
  const heldBy = keys.length === 0 ? () => 0n : await lockBalances(tx, keys);
  const accounts = new Set(charged.map(({ entry }) => entry.account));
  const limits = charged.length === 0 ? new Map() : await findDebtLimits(tx, [...accounts]);
  return {
    leftOf,
    balanceOf: (accountId, mode) => heldBy({ accountId, mode, kind: "consumer" }),
    debtOf: (accountId, mode) => -heldBy({ accountId, mode, kind: "consumer_receivable" }),
    debtLimitOf: (accountId) => limits.get(accountId) ?? debtLimitNanos,
  };
}

/** The leases that candidates name, each once. */
export function leasesOf(candidates: readonly Candidate[]): LeaseKey[] {
  const leases = new Map<string, LeaseKey>();
  for (const { entry } of candidates) {
    if (entry.lease !== null) {
      const key = { accountId: entry.account, leaseId: entry.lease };
      leases.set(`${key.accountId} ${key.leaseId}`, key);
    }
  }
  return [...leases.values()];
}

function spendingOf(events: readonly NewEvent[]): LeaseSpending[] {
  const spent = new Map<string, LeaseSpending>();
  for (const { entry, leasedNanos } of events) {
    if (entry.lease !== null && leasedNanos > 0n) {
      const key = { accountId: entry.account, leaseId: entry.lease };
      const name = `${key.accountId} ${key.leaseId}`;
      spent.set(name, { ...key, nanos: (spent.get(name)?.nanos ?? 0n) + leasedNanos });
    }
  }
  return [...spent.values()];
}

async function findTotals(tx: Tx, candidates: readonly Candidate[], shard: number) {
  const keys = new Map<string, ShareKey>();
  const accounts = new Set<string>();
  for (const { entry } of candidates) {
    const { mode, price } = entry;
    const { developerId, feeBasisPoints } = price;
    const name = `${developerId} ${mode} ${feeBasisPoints}`;
    if (!keys.has(name)) {
      keys.set(name, { developerId, mode, feeBasisPoints });
    }
    accounts.add(entry.account);
  }
  return {
    grossOf: await findRevenueTotals(tx, { shard, keys: [...keys.values()] }),
    chargedOf: await findChargeTotals(tx, [...accounts]),
  };
}

function firstMonth(candidates: readonly Candidate[]): string {
  const times = candidates.map(({ entry }) => entry.timeMicros);
  return monthOf(times.reduce((first, time) => (time < first ? time : first)));
}
