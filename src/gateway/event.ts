import { chargeOf, freeBits, type Outcome, type PriceRule } from "../catalog/price-rule.ts";
import { newId } from "../lib/id.ts";
import { gatewaySource, type UsageEntry } from "../metering/entry.ts";
import type { KeyPrincipal } from "./admission.ts";
import type { RoutePrice } from "./api.ts";

/** How a call ended. */
export interface Ending {
  status: number;
  outcome: Outcome;
  /** What the reply said. Null: nothing, or nobody asked it. */
  units: bigint | null;
}

/** What a call used, and what it is charged. */
export interface Usage {
  units: bigint;
  outcome: Outcome;
  chargedNanos: bigint;
}

/** What a call is charged. A price without a rule is for each call that ended below 500. */
export function usageOf({ rule, pinned }: RoutePrice, unitsBefore: bigint, ending: Ending): Usage {
  const { status, outcome } = ending;
  if (rule === null) {
    return { units: 1n, outcome, chargedNanos: status < 500 ? pinned.unitNanos : 0n };
  }
  const units = rule.source === null ? 1n : (ending.units ?? rule.source.missing);
  const told = units === 0n && mayLackUnits(rule, outcome) ? "no_units" : outcome;
  const { nanos } = chargeOf(rule, { units, unitsBefore, status, outcome: told });
  return { units, outcome: told, chargedNanos: nanos };
}

/** Zero units are kept as one: the outcome says that none is charged, unless it says already that nothing is. */
function mayLackUnits({ free }: PriceRule, outcome: Outcome): boolean {
  return (
    outcome === "whole" || (outcome === "consumer_left" && (free & freeBits.consumerLeft) === 0)
  );
}

/** What is known of a call for its event. */
export interface EventParts {
  key: KeyPrincipal;
  price: RoutePrice;
  endpoint: string;
  status: number;
  usage: Usage;
  unitsBefore: bigint;
  leaseId: string | null;
  requestId: string;
}

/** A call as the journal keeps it. */
export function toEntry(parts: EventParts, now: Date): UsageEntry {
  const { key, price, endpoint, status, usage, unitsBefore, leaseId, requestId } = parts;
  const { units, outcome, chargedNanos } = usage;
  return {
    kind: "usage",
    account: key.accountId,
    source: gatewaySource,
    id: newId("evt", now),
    price: price.pinned,
    endpoint,
    status,
    timeMicros: BigInt(now.getTime()) * 1_000n,
    timeUnset: false,
    mode: key.mode,
    data: "",
    units,
    chargedNanos,
    lease: chargedNanos === 0n ? null : leaseId,
    keyId: key.id,
    requestId,
    outcome,
    unitsBefore,
    replays: null,
    keptHash: null,
  };
}
