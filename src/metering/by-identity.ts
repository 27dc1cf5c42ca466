import { sql } from "slonik";
import { identityKey } from "./entry.ts";

/** Which event: the latest, when months lie between two of one identity. */
export interface Identity {
  accountId: string;
  source: string;
  id: string;
}

/**
 * The applied event of an identity, as a table of one row or none.
 *
 * The key of events begins with the account and the month that they were received in. So each month is named, from
 * the first partition to the next month: without, the database may read all of the account's keys.
 */
export function eventByIdentity({ accountId, source, id }: Identity) {
  return sql.fragment`(
    select found.* from (
      select generate_series(
        (
          select least(
            min(to_date(right(relname, 6), 'YYYYMM')),
            date_trunc('month', now() - interval '14 months')::date
          )
          from pg_class
          where relname ~ '^usage_events_[0-9]{6}$'
            and relnamespace = 'callora_parts'::regnamespace
        )::timestamp,
        date_trunc('month', now() at time zone 'UTC') + interval '1 month',
        interval '1 month'
      )::date as month
    ) as listed cross join lateral (
      select * from usage_events
      where account_id = ${accountId} and received_month = listed.month
        and key = ${identityKey(source, id)}
      limit 1
    ) as found
    order by listed.month desc limit 1
  )`;
}
