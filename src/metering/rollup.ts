import { sql } from "slonik";
import { type Column, selectColumns } from "../db/columns.ts";
import { nothing, type Tx } from "../db/pool.ts";
import { inTurns } from "../lib/turns.ts";
import type { Applied } from "./applied-event.ts";
import { bucketMicrosOf, quarterIndexOf, statusOf } from "./entry.ts";

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
  if (events.length > 0) {
    await addSums(tx, await sumUp(events));
  }
}

/** Sums of consumers, and of developers by endpoint. */
interface Sums {
  usage: Sum[];
  revenue: Sum[];
}

/** Sums by quarter of an hour. Sorted, so that two transactions lock rows in one order. */
async function sumUp(events: readonly RollupChange[]): Promise<Sums> {
  const usage = new Map<string, Sum>();
  const revenue = new Map<string, Sum>();
  await inTurns(events, (event) => {
    const { entry, bookedMonth, calls, nanos } = event;
    const { account, mode, price, endpoint, timeMicros } = entry;
    const name = `${quarterIndexOf(timeMicros)} ${account} ${mode} ${price.apiId} ${bookedMonth}`;
    const errors = statusOf(entry) >= 400 ? calls : 0n;
    for (const sum of [
      sumAt(usage, name, event),
      sumAt(revenue, `${name} ${price.developerId} ${endpoint}`, event),
    ]) {
      sum.calls += calls;
      sum.errors += errors;
      sum.nanos += nanos;
    }
  });
  return { usage: inOrder(usage), revenue: inOrder(revenue) };
}

function sumAt(sums: Map<string, Sum>, name: string, like: RollupChange): Sum {
  const known = sums.get(name);
  if (known !== undefined) {
    return known;
  }
  const bucketMicros = bucketMicrosOf(like.entry.timeMicros);
  const sum = { like, bucketMicros, calls: 0n, errors: 0n, nanos: 0n };
  sums.set(name, sum);
  return sum;
}

function inOrder(sums: ReadonlyMap<string, Sum>): Sum[] {
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

const usageColumns = [account, mode, api, bucket, bookedMonth, ...numbers];
const revenueColumns = [developer, mode, api, bucket, endpoint, account, bookedMonth, ...numbers];

async function addSums(tx: Tx, { usage, revenue }: Sums): Promise<void> {
  await tx.query(sql.prepared("add_rollups", nothing)`
    with added as (
      insert into usage_rollups as total (
        account_id, mode, api_id, bucket, booked_month, calls, errors, charged_nanos
      )
      select * from ${selectColumns(usage, usageColumns)} as sum
      on conflict (account_id, mode, api_id, bucket, booked_month) do update set
        calls = total.calls + excluded.calls,
        errors = total.errors + excluded.errors,
        charged_nanos = total.charged_nanos + excluded.charged_nanos
    )
    insert into revenue_rollups as total (
      account_id, mode, api_id, bucket, endpoint, consumer_account_id, booked_month, calls, errors,
      revenue_nanos
    )
    select * from ${selectColumns(revenue, revenueColumns)} as sum
    on conflict (
      account_id, mode, api_id, bucket, endpoint, consumer_account_id, booked_month
    ) do update set
      calls = total.calls + excluded.calls,
      errors = total.errors + excluded.errors,
      revenue_nanos = total.revenue_nanos + excluded.revenue_nanos
  `);
}
