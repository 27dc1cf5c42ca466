import { type RuleReader, rememberRules } from "../catalog/price-rule.ts";
import { inTurns } from "../lib/turns.ts";
import type { Applied } from "./applied-event.ts";
import { addMonths, bookedMonth } from "./booked-month.ts";
import { bodyHash, identityKey, monthOf, type Place, type UsageEntry } from "./entry.ts";
import type { Funds } from "./funds.ts";
import { chargeOf } from "./rate.ts";
import type { Running } from "./running.ts";

/** How many months before its own an event's identity is looked for: longer than an event may be late. */
const monthsBefore = 2;
/** Rows may be appended in another order than their clocks say, but for no longer than this. */
const clocksDifferMs = 24 * 60 * 60 * 1_000;
const monthsAfter = 1;

/** A usage entry that may be applied. */
export interface Candidate {
  entry: UsageEntry;
  place: Place;
  receivedAt: Date;
  receivedMonth: string;
  /** Source and id. */
  key: string;
  /** Its account and key. */
  identity: string;
  /** Of what the sender said. */
  hash: Buffer;
}

/** What is stored of an event that was applied. */
export interface StoredEvent {
  accountId: string;
  receivedMonth: string;
  key: string;
  hash: Buffer;
}

/** How often an applied event came again. */
export interface Repeats {
  duplicates: number;
  conflicts: number;
}

/** An event that is to be stored. */
export interface NewEvent extends Applied, Repeats {
  receivedMonth: string;
  key: string;
  identity: string;
  hash: Buffer;
}

/** What was decided of a list of entries, in their order. */
export interface Decision {
  applied: NewEvent[];
  /** Stored events that came again. */
  repeated: (StoredEvent & Repeats)[];
  refused: {
    candidate: Candidate;
    reason: "CONFLICT" | "OVER_LIMIT" | "POISONED";
    detail: string;
  }[];
}

/** Make a candidate of an entry. */
export function toCandidate(
  one: Pick<Candidate, "entry" | "place" | "receivedAt" | "receivedMonth">,
): Candidate {
  const { entry, place, receivedAt, receivedMonth } = one;
  const key = identityKey(entry.source, entry.id);
  const identity = identityOf({ accountId: entry.account, key });
  return { entry, place, receivedAt, receivedMonth, key, identity, hash: bodyHash(entry) };
}

/** The months in which the identities of candidates are looked for. */
export function monthsOf(candidates: readonly Candidate[]): string[] {
  const months = new Set<string>();
  for (const own of new Set(candidates.map(({ receivedMonth }) => receivedMonth))) {
    for (let count = -monthsBefore; count <= 0; count++) {
      months.add(addMonths(own, count));
    }
  }
  const lastMs = candidates.reduce(
    (last, { receivedAt }) => Math.max(last, receivedAt.getTime()),
    0,
  );
  return [...months.add(monthOf(BigInt(lastMs + clocksDifferMs) * 1_000n))];
}

/** An event's identity over all accounts. */
export function identityOf({ accountId, key }: { accountId: string; key: string }): string {
  return `${accountId} ${key}`;
}

/** Whether it comes back from quarantine: it may have been there for any time. */
export function isReplay({ entry }: Candidate): boolean {
  return entry.kind === "replay";
}

/** The stored event, of the latest first, whose identity a candidate has. */
export function findFirst(
  candidate: Candidate,
  stored: ReadonlyMap<string, readonly StoredEvent[]>,
): StoredEvent | undefined {
  return stored.get(candidate.identity)?.find((one) => isNear(candidate, one));
}

/** Whether an event of a candidate's identity is the same: received in months around its own, or at any time. */
function isNear(candidate: Candidate, { receivedMonth }: { receivedMonth: string }): boolean {
  const own = candidate.receivedMonth;
  return (
    own === receivedMonth ||
    isReplay(candidate) ||
    (receivedMonth >= addMonths(own, -monthsBefore) && receivedMonth <= addMonths(own, monthsAfter))
  );
}

/**
 * Decide of each entry, in the journal's order, whether it is applied, came before, or has to be kept aside.
 *
 * What is decided of an event depends on those before it, and not on which of them are in the same list.
 */
export async function decide(
  candidates: readonly Candidate[],
  known: {
    shard: number;
    batchPosition: bigint;
    stored: ReadonlyMap<string, readonly StoredEvent[]>;
    funds: Funds;
    running: Running;
    closed: ReadonlyMap<string, bigint>;
  },
): Promise<Decision> {
  const means = { ...known, readRule: rememberRules() };
  const refused: Decision["refused"] = [];
  const applied: NewEvent[] = [];
  const fresh = new Map<string, NewEvent>();
  const repeated = new Map<StoredEvent, StoredEvent & Repeats>();
  function findRepeated(candidate: Candidate) {
    const stored = findFirst(candidate, known.stored);
    if (stored === undefined) {
      return undefined;
    }
    const again = repeated.get(stored) ?? { ...stored, duplicates: 0, conflicts: 0 };
    repeated.set(stored, again);
    return again;
  }

  await inTurns(candidates, (candidate) => {
    const { identity } = candidate;
    const latest = fresh.get(identity);
    const first =
      latest !== undefined && isNear(candidate, latest) ? latest : findRepeated(candidate);
    if (first !== undefined) {
      if (first.hash.equals(candidate.hash)) {
        first.duplicates += 1;
      } else {
        first.conflicts += 1;
        refused.push({ candidate, reason: "CONFLICT", detail: "another event has its identity" });
      }
      return;
    }
    const result = apply(candidate, means);
    if ("reason" in result) {
      refused.push({ candidate, ...result });
    } else {
      applied.push(result);
      fresh.set(identity, result);
    }
  });
  return { applied, repeated: [...repeated.values()], refused };
}

function apply(
  candidate: Candidate,
  {
    shard,
    batchPosition,
    funds,
    running,
    closed,
    readRule,
  }: Parameters<typeof decide>[1] & { readRule: RuleReader },
): NewEvent | { reason: "OVER_LIMIT" | "POISONED"; detail: string } {
  const { entry, place, receivedAt, receivedMonth, key, identity, hash } = candidate;
  const { account, mode, lease, price, chargedNanos } = entry;
  if (chargeOf(entry, readRule) !== chargedNanos) {
    return { reason: "POISONED", detail: "the price does not give what was promised" };
  }
  const paid = funds.pay({ accountId: account, mode, leaseId: lease, nanos: chargedNanos });
  if (paid === null) {
    return { reason: "OVER_LIMIT", detail: "the account would owe more than it may" };
  }
  const { developerId, feeBasisPoints } = price;
  return {
    entry,
    place,
    receivedAt,
    receivedMonth,
    key,
    identity,
    hash,
    leasedNanos: paid.leasedNanos,
    owedNanos: paid.owedNanos,
    shard,
    batchPosition,
    bookedMonth: bookedMonth(monthOf(entry.timeMicros), place.position, closed),
    feeNanos: running.addRevenue({ developerId, mode, feeBasisPoints }, chargedNanos),
    chargedBefore: running.addCharge(account, mode, chargedNanos),
    duplicates: 0,
    conflicts: 0,
  };
}
