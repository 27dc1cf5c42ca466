import { sql } from "slonik";
import { type Column, selectColumns } from "../db/columns.ts";
import { nothing, type Tx } from "../db/pool.ts";
import { inTurns } from "../lib/turns.ts";
import type { Applied } from "./applied-event.ts";
import { bucketMicrosOf, statusOf } from "./entry.ts";

/** What is added to one row of either table: the sum of events that are alike in all that the row is known by. */
interface Sum {
  like: RollupChange;
  bucketMicros: bigint;
  calls: bigint;
  errors: bigint;
  nanos: bigint;
}

/** What changes the sums of an event's quarter of an hour. */
export interface RollupChange extends Pick<Applied, "entry" | "bookedMonth"> {
  calls: bigint;
  nanos: bigint;
}

/** Add events to the sums of their consumers and of their developers. */
export function addRollups(tx: Tx, events: readonly Applied[]): Promise<void> {
  return changeRollups(
    tx,
    events.map(({ entry, bookedMonth }) => ({
      entry,
      bookedMonth,
      calls: 1n,
      nanos: entry.chargedNanos,
    })),
  );
}

/** Change the sums of consumers and developers. Negative numbers take from them. */
export async function changeRollups(tx: Tx, events: readonly RollupChange[]): Promise<void> {
  if (events.length === 0) {
    return;
  }
  await addUsage(
    tx,
    await sumBy(
      events,
      ({ entry: e, bookedMonth }) => `${e.account} ${e.mode} ${e.price.apiId} ${bookedMonth}`,
    ),
  );
  await addRevenue(
    tx,
    await sumBy(
      events,
      ({ entry: e, bookedMonth }) =>
        `${e.price.developerId} ${e.mode} ${e.price.apiId} ${e.account} ${bookedMonth} ${e.endpoint}`,
    ),
  );
}

/** Sums by key and quarter of an hour. Sorted, so that two projectors of different shards lock rows in one order. */
async function sumBy(
  events: readonly RollupChange[],
  keyOf: (event: RollupChange) => string,
): Promise<Sum[]> {
  const sums = new Map<string, Sum>();
  await inTurns(events, (event) => {
    const { entry, calls, nanos } = event;
    const bucketMicros = bucketMicrosOf(entry.timeMicros);
    const key = `${bucketMicros} ${keyOf(event)}`;
    let sum = sums.get(key);
    if (sum === undefined) {
      sum = { like: event, bucketMicros, calls: 0n, errors: 0n, nanos: 0n };
      sums.set(key, sum);
    }
    sum.calls += calls;
    sum.errors += statusOf(entry) >= 400 ? calls : 0n;
    sum.nanos += nanos;
  });
  return [...sums].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, sum]) => sum);
}

const account: Column<Sum> = { type: "text", of: ({ like }) => like.entry.account };
const developer: Column<Sum> = { type: "text", of: ({ like }) => like.entry.price.developerId };
const mode: Column<Sum> = { type: "text", of: ({ like }) => like.entry.mode };
const api: Column<Sum> = { type: "text", of: ({ like }) => like.entry.price.apiId };
const endpoint: Column<Sum> = { type: "text", of: ({ like }) => like.entry.endpoint };
const bookedMonth: Column<Sum> = { type: "date", of: ({ like }) => like.bookedMonth };
const bucket: Column<Sum> = { type: "timestamptz", of: ({ bucketMicros }) => bucketMicros };
const numbers: Column<Sum>[] = [
  { type: "int8", of: ({ calls }) => calls },
  { type: "int8", of: ({ errors }) => errors },
  { type: "int8", of: ({ nanos }) => nanos },
];

async function addUsage(tx: Tx, sums: Sum[]): Promise<void> {
  const columns = [account, mode, api, bucket, bookedMonth, ...numbers];
  await tx.query(sql.prepared("add_usage_rollups", nothing)`
    insert into usage_rollups as total (
      account_id, mode, api_id, bucket, booked_month, calls, errors, charged_nanos
    )
    select * from ${selectColumns(sums, columns)} as sum
    on conflict (account_id, mode, api_id, bucket, booked_month) do update set
      calls = total.calls + excluded.calls,
      errors = total.errors + excluded.errors,
      charged_nanos = total.charged_nanos + excluded.charged_nanos
  `);
}

async function addRevenue(tx: Tx, sums: Sum[]): Promise<void> {
  const columns = [developer, mode, api, bucket, endpoint, account, bookedMonth, ...numbers];
  await tx.query(sql.prepared("add_revenue_rollups", nothing)`
    insert into revenue_rollups as total (
      account_id, mode, api_id, bucket, endpoint, consumer_account_id, booked_month, calls, errors,
      revenue_nanos
    )
    select * from ${selectColumns(sums, columns)} as sum
    on conflict (
      account_id, mode, api_id, bucket, endpoint, consumer_account_id, booked_month
    ) do update set
      calls = total.calls + excluded.calls,
      errors = total.errors + excluded.errors,
      revenue_nanos = total.revenue_nanos + excluded.revenue_nanos
  `);
}
