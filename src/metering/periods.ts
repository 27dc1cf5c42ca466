import { sql } from "slonik";
import { nothing, type Tx } from "../db/pool.ts";
import { headHold } from "./journal.ts";

/** Months before the last ended one that are closed when none was closed before: as late as an event may be. */
const monthsBefore = 2;

/**
 * Close the months, in UTC, that have ended: what comes later in the journal is billed in a later month.
 *
 * A settlement run calls it, in its transaction and last: the lock on the journal's head lets nobody append until it
 * is done, so that what is before the position that it notes is known.
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
    insert into periods (month, closed_position, settlement_id, closed_at)
    select series.month::date, head.position, ${settlementId}, ${now.toISOString()}
    from ended, begin, head, generate_series(begin.month, ended.month, interval '1 month')
      as series (month)
    on conflict do nothing
  `);
}
