import { sql } from "slonik";
import { z } from "zod";
import type { Queries } from "../db/pool.ts";
import type { Range } from "./range.ts";

/** Which calls to sum. A null API means all. */
export interface UsageQuery extends Range {
  accountId: string;
  apiId: string | null;
}

const apiUsageRow = z.object({
  api_id: z.string(),
  calls: z.bigint(),
  errors: z.bigint(),
  charged_nanos: z.bigint(),
});

/** Sum a consumer's live use by API, most calls first. */
export function sumUsageByApi(
  db: Queries,
  { accountId, apiId, from, to }: UsageQuery,
): Promise<readonly z.infer<typeof apiUsageRow>[]> {
  return db.any(sql.type(apiUsageRow)`
    select api_id, sum(calls)::int8 as calls, sum(errors)::int8 as errors,
      sum(charged_nanos)::int8 as charged_nanos
    from usage_rollups
    where account_id = ${accountId} and mode = 'live'
      and bucket >= ${from.toISOString()} and bucket < ${to.toISOString()}
      and (${apiId}::text is null or api_id = ${apiId})
    group by api_id order by calls desc, api_id
  `);
}

const periodRow = z.object({ period: z.string(), calls: z.bigint(), revenue_nanos: z.bigint() });

/** Sum a developer's live calls and revenue by UTC day, week from Monday, or month. Empty ones are left out. */
export function sumRevenueByPeriod(
  db: Queries,
  { accountId, apiId, from, to }: UsageQuery,
  unit: "day" | "week" | "month",
): Promise<readonly z.infer<typeof periodRow>[]> {
  return db.any(sql.type(periodRow)`
    select to_char(date_trunc(${unit}, bucket at time zone 'UTC'), 'YYYY-MM-DD') as period,
      sum(calls)::int8 as calls, sum(revenue_nanos)::int8 as revenue_nanos
    from revenue_rollups
    where account_id = ${accountId} and mode = 'live'
      and bucket >= ${from.toISOString()} and bucket < ${to.toISOString()}
      and (${apiId}::text is null or api_id = ${apiId})
    group by 1 order by 1
  `);
}

const topRow = z.object({ name: z.string(), calls: z.bigint() });

/** A developer's five most called endpoints. */
export function listTopEndpoints(
  db: Queries,
  { accountId, apiId, from, to }: UsageQuery,
): Promise<readonly z.infer<typeof topRow>[]> {
  return db.any(sql.type(topRow)`
    select endpoint as name, sum(calls)::int8 as calls
    from revenue_rollups
    where account_id = ${accountId} and mode = 'live'
      and bucket >= ${from.toISOString()} and bucket < ${to.toISOString()}
      and (${apiId}::text is null or api_id = ${apiId})
    group by endpoint order by calls desc, endpoint limit 5
  `);
}

/** A developer's five busiest consumers, by account. */
export function listTopConsumers(
  db: Queries,
  { accountId, apiId, from, to }: UsageQuery,
): Promise<readonly z.infer<typeof topRow>[]> {
  return db.any(sql.type(topRow)`
    select consumer_account_id as name, sum(calls)::int8 as calls
    from revenue_rollups
    where account_id = ${accountId} and mode = 'live'
      and bucket >= ${from.toISOString()} and bucket < ${to.toISOString()}
      and (${apiId}::text is null or api_id = ${apiId})
    group by consumer_account_id order by calls desc, consumer_account_id limit 5
  `);
}
