import type { Outcome } from "../catalog/price-rule.ts";
import { newId } from "../lib/id.ts";
import { gatewaySource, type UsageEntry } from "../metering/entry.ts";
import { chargeOf } from "../metering/rate.ts";
import type { KeyPrincipal } from "./admission.ts";
import type { RoutePrice } from "./api.ts";
import { usedUnits } from "./units.ts";

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

/** What a call is charged: what whoever rates its entry of the journal finds. */
export function usageOf({ rule, pinned }: RoutePrice, unitsBefore: bigint, ending: Ending): Usage {
  const { status } = ending;
  const used =
    rule === null
      ? { units: 1n, outcome: ending.outcome }
      : usedUnits(rule, ending.units, ending.outcome);
  const entry = { ...used, price: pinned, status, unitsBefore };
  const chargedNanos = rule === null ? chargeOf(entry) : chargeOf(entry, () => rule);
  return { ...used, chargedNanos };
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
