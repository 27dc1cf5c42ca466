import type { MessageInitShape } from "@bufbuild/protobuf";
import {
  type RecordUsageResponseSchema,
  type UsageEvent,
  UsageOutcome,
  type UsageResultSchema,
} from "../../gen/callora/metering/v1/metering_service_pb.ts";
import { rememberRules } from "../catalog/price-rule.ts";
import type { PriceRow } from "../catalog/store.ts";
import type { Memory } from "../db/memory.ts";
import { allOf, type MaybePromise } from "../lib/maybe-promise.ts";
import { invalidArgument, type Violation } from "../rpc/errors.ts";
import { checkKnown, checkShape, type Known, toEntry } from "./check.ts";
import type { Pinned, UsageEntry } from "./entry.ts";
import { getWatermark, type Journal, type Receipt } from "./journal.ts";
import { placeInMonths } from "./month-base.ts";
import type { MonthUnits } from "./month-units.ts";
import { type Outcome, type OutcomeDeps, waitForOutcomes } from "./outcomes.ts";

/** An event that somebody sent, or what was wrong with it before it was one. */
export type Candidate = { event: UsageEvent } | { violations: Violation[] };

/** What recording needs. */
export interface DoorDeps extends OutcomeDeps {
  journal: Journal;
  monthUnits: MonthUnits;
  /** By the API's id. */
  prices: Pick<Memory<PriceRow>, "get">;
  /** Those of the ids that are no accounts. */
  findMissingAccounts: (accountIds: readonly string[]) => MaybePromise<ReadonlySet<string>>;
}

/** Events that passed, and what is wrong with the others. */
export interface Taken {
  entries: readonly UsageEntry[];
  receipt: Receipt;
  /** Of each candidate. Empty: it passed. */
  violations: readonly (readonly Violation[])[];
}

/** How events are to be taken. */
export interface TakeOptions {
  /** Take what is right, and leave the rest. Otherwise all are refused for one. */
  partial: boolean;
  /** What the sender calls the fields of an event, where that is something else. */
  names?: Readonly<Record<string, string>>;
}

/**
 * Check events, and append what is right to the journal: when this resolves, it is durable. It asks the database for
 * nothing else, once it knows the accounts and the prices, but for what was used in a month whose tiers it is in.
 *
 * Throws INVALID_ARGUMENT when one is wrong and the rest is not to be taken without it, and what the journal throws.
 */
export async function takeEvents(
  deps: DoorDeps,
  candidates: readonly Candidate[],
  { partial, names = {} }: TakeOptions,
): Promise<Taken> {
  const shapes = candidates.map((one) => ("event" in one ? checkShape(one.event) : one.violations));
  const events: UsageEvent[] = [];
  for (const [index, one] of candidates.entries()) {
    if ("event" in one && shapes[index]?.length === 0) {
      events.push(one.event);
    }
  }
  const finding = findKnown(deps, events);
  const known = finding instanceof Promise ? await finding : finding;
  const rating = { now: known.now, readRule };
  const entries: UsageEntry[] = [];
  const findWrong = (one: Candidate, index: number) => {
    const wrong = shapes[index] ?? [];
    if (!("event" in one) || wrong.length > 0) {
      return wrong;
    }
    const price = known.prices.get(one.event.apiId);
    const unknown = checkKnown(one.event, known);
    if (unknown.length === 0 && price !== undefined) {
      entries.push(toEntry(one.event, price, rating));
    }
    return unknown;
  };
  const violations = candidates.map((one, index) =>
    findWrong(one, index).map((wrong) => ({ ...wrong, field: names[wrong.field] ?? wrong.field })),
  );
  if (!partial) {
    refuseAll(violations);
  }
  if (entries.length === 0) {
    return { entries, receipt: nowhere, violations };
  }
  const placing = placeInMonths(deps.monthUnits, entries, readRule);
  const placed = placing instanceof Promise ? await placing : placing;
  try {
    const receipt = await deps.journal.append(entries);
    placed.written(receipt);
    return { entries, receipt, violations };
  } catch (error) {
    placed.withdraw();
    throw error;
  }
}

/** The same text is always the same rule. */
const readRule = rememberRules();

const nowhere: Receipt = { position: 0n, places: [], applied: 0n };

function refuseAll(violations: readonly (readonly Violation[])[]): void {
  const all = violations.flatMap((own, index) =>
    own.map(({ field, description }) => ({
      field: field === "" ? `events[${index}]` : `events[${index}].${field}`,
      description,
    })),
  );
  if (all.length > 0) {
    throw invalidArgument(all);
  }
}

/** What the events are checked against: at once where all of it is remembered. */
function findKnown(deps: DoorDeps, events: readonly UsageEvent[]): MaybePromise<Known> {
  const accountIds = new Set<string>();
  const apiIds = new Set<string>();
  for (const { accountId, apiId } of events) {
    accountIds.add(accountId);
    apiIds.add(apiId);
  }
  const missing = deps.findMissingAccounts([...accountIds]);
  const rows = allOf([...apiIds].map((apiId) => deps.prices.get(apiId)));
  if (missing instanceof Promise || rows instanceof Promise) {
    return Promise.all([missing, rows]).then(([accounts, found]) => toKnown(deps, accounts, found));
  }
  return toKnown(deps, missing, rows);
}

function toKnown(
  { now }: DoorDeps,
  missingAccounts: ReadonlySet<string>,
  rows: readonly (PriceRow | null)[],
): Known {
  const prices = new Map<string, Pinned>();
  for (const row of rows) {
    if (row !== null) {
      prices.set(row.id, toPinned(row));
    }
  }
  return { missingAccounts, prices, now: now() };
}

/** The price of an event that does not pass the gateway: by the API's default rule. */
export function toPinned(row: PriceRow): Pinned {
  return {
    apiId: row.id,
    developerId: row.account_id,
    version: row.price_version,
    unitNanos: row.call_nanos,
    feeBasisPoints: row.fee_basis_points,
    rule: row.rule,
  };
}

/** Whose signal is made when it is first asked for: most calls do not wait. */
export interface Cancellable {
  readonly signal: AbortSignal;
}

/** Record the events of one request: what RecordUsage answers, whatever protocol brought them. */
export async function recordEvents(
  deps: DoorDeps,
  candidates: readonly Candidate[],
  { waitMs, context, ...options }: TakeOptions & { waitMs: number; context: Cancellable },
): Promise<MessageInitShape<typeof RecordUsageResponseSchema>> {
  const taken = await takeEvents(deps, candidates, options);
  const { entries, receipt } = taken;
  const { position, places } = receipt;
  if (waitMs === 0 || entries.length === 0) {
    const watermark = entries.length === 0 ? await readApplied(deps) : receipt.applied;
    const outcomes = entries.map(() => "accepted" as const);
    return { position, results: options.partial ? toResults(taken, outcomes) : [], watermark };
  }
  const recorded = entries.flatMap((entry, index) => {
    const place = places[index];
    return place === undefined ? [] : [{ ...entry, place }];
  });
  const deadline = AbortSignal.any([context.signal, AbortSignal.timeout(waitMs)]);
  const { outcomes, watermark } = await waitForOutcomes(deps, recorded, deadline).catch(() => {
    // They are durable, whatever cannot be asked now.
    return { outcomes: entries.map(() => "accepted" as const), watermark: receipt.applied };
  });
  return { position, results: toResults(taken, outcomes), watermark };
}

/** How far the journal is applied. */
export async function readApplied({ db }: DoorDeps): Promise<bigint> {
  return (await db.systemTransaction(getWatermark)).applied;
}

const outcomeOf = {
  accepted: UsageOutcome.ACCEPTED,
  applied: UsageOutcome.APPLIED,
  duplicate: UsageOutcome.DUPLICATE,
  conflict: UsageOutcome.CONFLICT,
  quarantined: UsageOutcome.QUARANTINED,
} satisfies Record<Outcome, UsageOutcome>;

/** One result for each candidate: those that passed are in the journal in their order. */
function toResults(
  { violations, receipt }: Taken,
  outcomes: readonly Outcome[],
): MessageInitShape<typeof UsageResultSchema>[] {
  let passed = 0;
  return violations.map((own) => {
    if (own.length > 0) {
      return { outcome: UsageOutcome.REJECTED, violations: own.slice() };
    }
    const place = receipt.places[passed];
    const outcome = outcomes[passed] ?? "accepted";
    passed += 1;
    return {
      outcome: outcomeOf[outcome],
      position: place?.position ?? 0n,
      ordinal: place?.ordinal ?? 0,
    };
  });
}
