import assert from "node:assert";
import type { ReplayEventsRequest } from "../../gen/callora/metering/v1/correction_service_pb.ts";
import type { UsageEvent } from "../../gen/callora/metering/v1/metering_service_pb.ts";
import { listNewestPrices } from "../catalog/store.ts";
import type { Audit } from "../db/database.ts";
import type { Tx } from "../db/pool.ts";
import { failedPrecondition, invalidArgument, notFound, type Violation } from "../rpc/errors.ts";
import { checkKnown, checkShape, microsOf } from "./check.ts";
import { toPinned } from "./door.ts";
import { bodyHash, type Entry, type UsageEntry } from "./entry.ts";
import type { Journal } from "./journal.ts";
import { parsePlace, placeText } from "./quarantine-shown.ts";
import { closeQuarantined, lockQuarantined, type QuarantinedRow } from "./quarantine-store.ts";
import { asItCame, keptUsage, putRight } from "./replay.ts";

/** What replaying needs. */
export interface ReplayDeps {
  journal: Journal;
  existingAccounts: (tx: Tx, accountIds: string[]) => Promise<Set<string>>;
}

/**
 * Append quarantined entries to the journal again, in the order of their places. Returns where the last one stands.
 *
 * All or none: throws NOT_FOUND, FAILED_PRECONDITION (QUARANTINE_CLOSED, QUARANTINE_UNREADABLE) or INVALID_ARGUMENT.
 */
export async function replayEvents(
  tx: Tx,
  { quarantineIds, fixed, reason }: ReplayEventsRequest,
  { deps, audit, now }: { deps: ReplayDeps; audit: Audit; now: Date },
): Promise<bigint> {
  if (fixed !== undefined && quarantineIds.length > 1) {
    const description = "can be given for a single event only";
    throw invalidArgument([{ field: "fixed", description }]);
  }
  const rows = await lockQuarantined(tx, quarantineIds.map(parsePlace));
  if (rows.length < quarantineIds.length) {
    throw notFound("one of the quarantined events");
  }
  const entries: Entry[] = [];
  for (const row of rows) {
    if (row.state !== "open") {
      const message = `Cannot replay event ${placeText(row)}: it was ${row.state}`;
      throw failedPrecondition("QUARANTINE_CLOSED", message);
    }
    entries.push(fixed === undefined ? unchanged(row) : await changed(tx, row, fixed, deps));
  }
  // Last: the lock on the journal's head is held until the end of the transaction.
  const { position, places } = await deps.journal.appendIn(tx, entries);
  const closings = rows.map((row, index) => ({
    place: { position: row.position, ordinal: row.ordinal },
    replayPosition: places[index]?.position ?? position,
  }));
  await closeQuarantined(tx, closings, { reason, now });
  for (const [index, row] of rows.entries()) {
    const detail = fixed === undefined ? reason : `${reason} (${nameOf(entries[index])})`;
    audit.record(`quarantined_event:${placeText(row)}`, detail);
  }
  return position;
}

/** What an event was said to be instead, for the audit log. */
function nameOf(entry: Entry | undefined): string {
  assert(entry !== undefined && "price" in entry);
  return `as of ${entry.account}, body ${bodyHash(entry).toString("hex")}`;
}

function unchanged(row: QuarantinedRow): Entry {
  const entry = asItCame(row);
  if (entry === null) {
    const message = `Cannot replay event ${placeText(row)}: it cannot be read; say what it should be`;
    throw failedPrecondition("QUARANTINE_UNREADABLE", message);
  }
  return entry;
}

async function changed(
  tx: Tx,
  row: QuarantinedRow,
  fixed: UsageEvent,
  { existingAccounts }: ReplayDeps,
): Promise<UsageEntry> {
  const shape = checkShape(fixed);
  refuse(shape);
  const [newest] = await listNewestPrices(tx, [fixed.apiId]);
  const isKnown = (await existingAccounts(tx, [fixed.accountId])).has(fixed.accountId);
  const kept = keptUsage(row);
  const price = kept?.price.apiId === fixed.apiId ? kept.price : newest && toPinned(newest);
  const wrong = checkKnown(fixed, {
    missingAccounts: new Set(isKnown ? [] : [fixed.accountId]),
    prices: new Map(newest === undefined || price === undefined ? [] : [[newest.id, price]]),
    now: new Date(row.created_at),
  });
  const isSame: Record<string, boolean> = {
    source: fixed.source === kept?.source,
    time: fixed.time !== undefined && microsOf(fixed.time) === kept?.timeMicros,
  };
  // What the event came with was right then.
  refuse(wrong.filter(({ field }) => !isSame[field]));
  assert(price !== undefined);
  return putRight(row, fixed, price);
}

/** Throws INVALID_ARGUMENT, when something is wrong with what an event should have said. */
function refuse(violations: readonly Violation[]): void {
  if (violations.length > 0) {
    throw invalidArgument(
      violations.map(({ field, description }) => ({ field: `fixed.${field}`, description })),
    );
  }
}
