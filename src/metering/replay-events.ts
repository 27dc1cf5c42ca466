import type { ReplayEventsRequest } from "../../gen/callora/metering/v1/correction_service_pb.ts";
import type { UsageEvent } from "../../gen/callora/metering/v1/metering_service_pb.ts";
import { listNewestPrices } from "../catalog/store.ts";
import type { Audit } from "../db/database.ts";
import type { Tx } from "../db/pool.ts";
import { failedPrecondition, invalidArgument, notFound } from "../rpc/errors.ts";
import { toPinned } from "./door.ts";
import type { Entry } from "./entry.ts";
import type { Journal } from "./journal.ts";
import { parsePlace, placeText } from "./quarantine-shown.ts";
import { closeQuarantined, lockQuarantined, type QuarantinedRow } from "./quarantine-store.ts";
import { asItCame, isStorable, putRight } from "./replay.ts";

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
  for (const row of rows) {
    audit.record(`quarantined_event:${placeText(row)}`, reason);
  }
  return position;
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
): Promise<Entry> {
  if (!(await existingAccounts(tx, [fixed.accountId])).has(fixed.accountId)) {
    throw invalidArgument([{ field: "fixed.account_id", description: "no such account" }]);
  }
  const [price] = await listNewestPrices(tx, [fixed.apiId]);
  if (price === undefined) {
    throw invalidArgument([{ field: "fixed.api_id", description: "no such API" }]);
  }
  const entry = putRight(row, fixed, toPinned(price));
  if (!isStorable(entry)) {
    const description = "has a time or a charge that the journal cannot hold";
    throw invalidArgument([{ field: "fixed", description }]);
  }
  return entry;
}
