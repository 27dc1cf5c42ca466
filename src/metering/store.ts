import { sql } from "slonik";
import { z } from "zod";
import type { Queries } from "../db/pool.ts";
import { eventByIdentity, type Identity } from "./by-identity.ts";
import { monthOf, type Place, timeText } from "./entry.ts";

/** The row of an applied event. */
export const eventRow = z.object({
  source: z.string(),
  id: z.string(),
  account_id: z.string(),
  api_id: z.string(),
  mode: z.enum(["live", "test"]),
  endpoint: z.string(),
  status_code: z.number(),
  occurred_micros: z.bigint(),
  received_at: z.number(),
  booked_month: z.string(),
  units: z.bigint(),
  data: z.string(),
  price_version: z.number(),
  charged_nanos: z.bigint(),
  corrected_nanos: z.bigint(),
  position: z.bigint(),
  ordinal: z.number(),
  duplicates: z.number(),
  conflicts: z.number(),
});

/** An applied event, and what corrections added to its charge. */
export type EventRow = z.infer<typeof eventRow>;

/** The columns of an applied event, of `usage_events as event`. */
export const eventColumns = sql.fragment`
  source, id, account_id, api_id, mode, endpoint, status_code,
  (extract(epoch from occurred_at) * 1000000)::int8 as occurred_micros, received_at,
  booked_month::text as booked_month, units, data, price_version, charged_nanos, (
    select coalesce(sum(delta_nanos), 0)::int8 from usage_corrections as correction
    where correction.account_id = event.account_id
      and correction.event_position = event.position and correction.event_ordinal = event.ordinal
  ) as corrected_nanos, position, ordinal, duplicates, conflicts
`;

/** Find one of the account's applied events. */
export function findEvent(db: Queries, identity: Identity): Promise<EventRow | null> {
  return db.maybeOne(sql.type(eventRow)`
    select ${eventColumns} from ${eventByIdentity(identity)} as event
  `);
}

/** Which of an account's events to list: of a range of time, its end exclusive, and before a place in the order. */
export interface EventRange {
  accountId: string;
  startMicros: bigint;
  endMicros: bigint;
  before: { micros: bigint; place: Place } | null;
  limit: number;
}

/** List an account's applied events, newest first. */
export function listEvents(
  db: Queries,
  { accountId, startMicros, endMicros, before, limit }: EventRange,
): Promise<readonly EventRow[]> {
  const day = 86_400_000_000n;
  const after = before ?? { micros: endMicros, place: { position: 0n, ordinal: 0 } };
  const { micros, place } = after;
  // An event may come some minutes before its own time, so the partitions before that day hold none of them.
  const month = monthOf(startMicros > day ? startMicros - day : 0n);
  return db.any(sql.type(eventRow)`
    select ${eventColumns} from usage_events as event
    where account_id = ${accountId} and received_month >= ${month}
      and occurred_at >= ${timeText(startMicros)} and occurred_at < ${timeText(endMicros)}
      and (occurred_at, position, ordinal) < (${timeText(micros)}, ${place.position}, ${place.ordinal})
    order by occurred_at desc, position desc, ordinal desc
    limit ${limit}
  `);
}
