import type { UsageEvent } from "../../gen/callora/metering/v1/metering_service_pb.ts";
import type { Outcome } from "../catalog/price-rule.ts";
import { microsOf } from "./check.ts";
import type { Entry, Pinned, UsageEntry } from "./entry.ts";
import { entryOf } from "./quarantine-shown.ts";
import type { QuarantinedRow } from "./quarantine-store.ts";
import { rateEntry } from "./rate.ts";

/** The entry that brings a quarantined one back as it came. Null when it cannot be read. */
export function asItCame(row: QuarantinedRow): Entry | null {
  const entry = entryOf(row);
  if (entry === null || "correctionId" in entry) {
    return entry;
  }
  return { ...entry, kind: "replay", replays: placeOf(row), lease: null, keptHash: null };
}

/**
 * The entry that brings a quarantined one back with another body.
 *
 * The price that held when it came stays, as long as it is the same API's; the charge is what that price gives.
 */
export function putRight(row: QuarantinedRow, fixed: UsageEvent, price: Pinned): UsageEntry {
  const kept = keptUsage(row);
  const isSame = kept?.price.apiId === fixed.apiId;
  const timeMicros = kept?.timeMicros ?? BigInt(row.created_at) * 1_000n;
  const entry: UsageEntry = {
    kind: "replay",
    account: fixed.accountId,
    source: fixed.source,
    id: fixed.id,
    price: isSame ? kept.price : price,
    endpoint: fixed.endpoint,
    status: fixed.statusCode,
    timeMicros: fixed.time === undefined ? timeMicros : microsOf(fixed.time),
    timeUnset: fixed.time === undefined,
    mode: fixed.test ? "test" : "live",
    data: fixed.data,
    units: fixed.units,
    chargedNanos: 0n,
    lease: null,
    keyId: kept?.keyId ?? null,
    requestId: kept?.requestId ?? "",
    replays: placeOf(row),
    outcome: outcomeOf(kept, fixed),
    unitsBefore: isSame ? kept.unitsBefore : 0n,
    keptHash: null,
  };
  return { ...entry, chargedNanos: rateEntry(entry).chargedNanos };
}

/** How the call ended stays. Where units are said now, it is no more one that said none. */
function outcomeOf(kept: UsageEntry | null, { units }: UsageEvent): Outcome {
  const outcome = kept?.outcome ?? "whole";
  return outcome === "no_units" && units > 0n ? "whole" : outcome;
}

/** The usage that is kept in a row of quarantine. Null when it is none, or cannot be read. */
export function keptUsage(row: QuarantinedRow): UsageEntry | null {
  const entry = entryOf(row);
  return entry === null || "correctionId" in entry ? null : entry;
}

function placeOf({ position, ordinal }: QuarantinedRow) {
  return { position, ordinal };
}
