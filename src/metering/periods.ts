import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Tx } from "../db/pool.ts";
import { headHold } from "./journal.ts";

/** Months before the last ended one that are closed when none was closed before: as late as an event may be. */
const monthsBefore = 2;

/**
 * Close the months, in UTC, that have ended: what comes later in the journal is billed in a later month.
 *
 * A settlement run calls it, in its transaction and last: the lock on the journal's head lets nobody append until it
 * is done, so that what is before the position that it notes is known. What no run closes, closeEndedPeriods does.
 */
export async function closePeriods(tx: Tx, settlementId: string, now: Date): Promise<void> {
  await tx.query(sql.type(nothing)`
    with ended as (
      select (date_trunc('month', ${now.toISOString()}::timestamptz at time zone 'UTC')
        - interval '1 month')::date as month
    ), head as (
      select position, ${headHold} from journal_head for update
    ), begin as (
      select coalesce(
        (select max(month) + interval '1 month' from periods),
        least(
          (select min(booked_month) from usage_rollups),
          ended.month - ${monthsBefore}::int4 * interval '1 month'
        )
      ) as month
      from ended
    )
    insert into periods (month, closed_position, settlement_id)
    select series.month::date, head.position, ${settlementId}
    from ended, begin, head, generate_series(begin.month, ended.month, interval '1 month')
      as series (month)
    on conflict do nothing
  `);
}

/** How long after its end a month stays open for what comes late, when no settlement run closes it before. */
const openHours = 6;

const dueRow = z.object({ end: z.number(), is_due: z.boolean() });

/**
 * Close the months that ended six hours ago, by the database's clock: they are billed, whether anybody is paid or not.
 *
 * It locks the journal's head only when there is a month to close.
 */
export async function closeEndedPeriods(tx: Tx): Promise<void> {
  const { end, is_due } = await tx.one(sql.type(dueRow)`
    select now() - ${openHours}::int4 * interval '1 hour' as end, not exists (
      select from periods
      where month >= date_trunc(
        'month', (now() - ${openHours}::int4 * interval '1 hour') at time zone 'UTC'
      ) - interval '1 month'
    ) as is_due
  `);
  if (is_due) {
    await closePeriods(tx, "", new Date(end));
  }
}
