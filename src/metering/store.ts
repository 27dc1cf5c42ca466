import { sql } from "slonik";
import { z } from "zod";
import type { Queries } from "../db/pool.ts";
import { identityKey, type UsageEntry } from "./entry.ts";

/** An event's identity, over all accounts. */
export function identity({ account, source, id }: UsageEntry): string {
  return `${account} ${identityKey(source, id)}`;
}

const eventRow = z.object({
  source: z.string(),
  id: z.string(),
  account_id: z.string(),
  api_id: z.string(),
  mode: z.enum(["live", "test"]),
  endpoint: z.string(),
  status_code: z.number(),
  occurred_at: z.number(),
  received_at: z.number(),
  booked_month: z.string(),
  units: z.bigint(),
  data: z.string(),
  price_version: z.number(),
  charged_nanos: z.bigint(),
  position: z.bigint(),
  ordinal: z.number(),
  duplicates: z.number(),
  conflicts: z.number(),
});

/** An applied event. */
export type EventRow = z.infer<typeof eventRow>;

/** Find one of the account's applied events: the latest, when months lie between two of one identity. */
export function findEvent(
  db: Queries,
  { accountId, source, id }: { accountId: string; source: string; id: string },
): Promise<EventRow | null> {
  return db.maybeOne(sql.type(eventRow)`
    select source, id, account_id, api_id, mode, endpoint, status_code, occurred_at, received_at,
      booked_month::text as booked_month, units, data, price_version, charged_nanos, position,
      ordinal, duplicates, conflicts
    from usage_events
    where account_id = ${accountId} and key = ${identityKey(source, id)}
    order by received_month desc limit 1
  `);
}
