import { type BurningCharge, burnGrants } from "../credits/burn.ts";
import { type LeaseKey, type LeaseSpending, lockLeases, spendLeases } from "../credits/leases.ts";
import type { Tx } from "../db/pool.ts";
import { lockBalances, postTransfers } from "../ledger/store.ts";
import { inTurns } from "../lib/turns.ts";
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
import { addRepeats, insertEvents } from "./event-store.ts";
import { createFunds, type Means } from "./funds.ts";
import { addMeters } from "./meter-rollup.ts";
import type { Batch } from "./projections.ts";
import { addRollups } from "./rollup.ts";
import { createRunning, type ShareKey } from "./running.ts";
import { findStored } from "./stored-events.ts";
import { addTotals, findStanding, type Standing } from "./totals.ts";

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
  const standing = await findStandingOf(tx, candidates, shard);
  const funds = createFunds(await lockMeans(tx, charged, { ...options, standing }));
  const running = createRunning(standing);
  const known = { shard, batchPosition, stored, funds, running, closed: standing.closed };
  const decision = await decide(candidates, known);
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
  await addTotals(tx, charged, shard);
  await spendLeases(tx, spendingOf(charged));
  await burnGrants(tx, await burningsOf(charged));
  const source = { type: "usage", id: `${shard}:${first}-${last}${trial}` };
  const transfers = (await transfersOf(charged)).map((one) => ({ ...one, source, position: last }));
  await postTransfers(tx, transfers, now);
}

/**
 * What of the charges burns grants, those together that go on with each other and came at the same time. What is owed
 * burns nothing: the credit that repays it does.
 */
async function burningsOf(charged: readonly NewEvent[]): Promise<BurningCharge[]> {
  const burnings: BurningCharge[] = [];
  const lastOf = new Map<string, BurningCharge>();
  await inTurns(charged, ({ entry, receivedAt, chargedBefore, owedNanos }) => {
    const { account: accountId, mode } = entry;
    const nanos = entry.chargedNanos - owedNanos;
    const purse = `${accountId} ${mode}`;
    const last = lastOf.get(purse);
    const goesOn =
      last?.at.getTime() === receivedAt.getTime() && last.fromNanos + last.nanos === chargedBefore;
    if (last !== undefined && goesOn) {
      last.nanos += nanos;
    } else {
      const next = { accountId, mode, at: receivedAt, fromNanos: chargedBefore, nanos };
      burnings.push(next);
      lastOf.set(purse, next);
    }
  });
  return burnings;
}

/** What is stored of the candidates' identities: of those that come back from quarantine of any month. */
async function findKnown(
  tx: Tx,
  candidates: readonly Candidate[],
): Promise<ReadonlyMap<string, readonly StoredEvent[]>> {
  const months = monthsOf(candidates);
  const stored = await findStored(tx, { candidates, months });
  const replays = candidates.filter(isReplay);
  if (replays.length === 0) {
    return stored;
  }
  const ever = await findStored(tx, { candidates: replays, months: null });
  return new Map([...stored, ...ever]);
}

/** Lock what pays for candidates. */
async function lockMeans(
  tx: Tx,
  charged: readonly Candidate[],
  { debtLimitNanos, standing }: Pick<ApplyOptions, "debtLimitNanos"> & { standing: Standing },
): Promise<Means> {
  const leftOf = await lockLeases(tx, leasesOf(charged));
  const keys = await payingBalances(charged, leftOf);
  const heldBy = keys.length === 0 ? () => 0n : await lockBalances(tx, keys);
  return {
    leftOf,
    balanceOf: (accountId, mode) => heldBy({ accountId, mode, kind: "consumer" }),
    debtOf: (accountId, mode) => -heldBy({ accountId, mode, kind: "consumer_receivable" }),
    debtLimitOf: (accountId) => standing.debtLimits.get(accountId) ?? debtLimitNanos,
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

async function findStandingOf(tx: Tx, candidates: readonly Candidate[], shard: number) {
  const shares = new Map<string, ShareKey>();
  const accounts = new Set<string>();
  await inTurns(candidates, ({ entry }) => {
    const { mode, price } = entry;
    const { developerId, feeBasisPoints } = price;
    const name = `${developerId} ${mode} ${feeBasisPoints}`;
    if (!shares.has(name)) {
      shares.set(name, { developerId, mode, feeBasisPoints });
    }
    accounts.add(entry.account);
  });
  return findStanding(tx, {
    shard,
    shares: [...shares.values()],
    accountIds: [...accounts],
    firstMonth: firstMonth(candidates),
  });
}

function firstMonth(candidates: readonly Candidate[]): string {
  const times = candidates.map(({ entry }) => entry.timeMicros);
  return monthOf(times.reduce((first, time) => (time < first ? time : first)));
}
