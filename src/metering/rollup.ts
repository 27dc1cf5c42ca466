import { sql } from "slonik";
import { nothing, type Tx } from "../db/pool.ts";
import type { Applied } from "./applied-event.ts";
import { bucketOf, statusOf } from "./entry.ts";

interface Sum {
  key: string[];
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
    sumBy(events, ({ entry: e, bookedMonth }, bucket) => [
      e.account,
      e.mode,
      e.price.apiId,
      bucket,
      bookedMonth,
    ]),
  );
  await addRevenue(
    tx,
    sumBy(events, ({ entry: e, bookedMonth }, bucket) => [
      e.price.developerId,
      e.mode,
      e.price.apiId,
      bucket,
      e.endpoint,
      e.account,
      bookedMonth,
    ]),
  );
}

/** Sorted, so that two projectors of different shards lock rows in one order. */
function sumBy(
  events: readonly RollupChange[],
  keyOf: (event: RollupChange, bucket: string) => string[],
): Sum[] {
  const sums = new Map<string, Sum>();
  const buckets = new Map<bigint, string>();
  for (const event of events) {
    const { entry, calls, nanos } = event;
    const bucket = buckets.get(entry.timeMicros) ?? bucketOf(entry.timeMicros);
    buckets.set(entry.timeMicros, bucket);
    const key = keyOf(event, bucket);
    // No text of an event holds a NUL.
    const text = key.join("\0");
    const sum = sums.get(text) ?? { key, calls: 0n, errors: 0n, nanos: 0n };
    sum.calls += calls;
    sum.errors += statusOf(entry) >= 400 ? calls : 0n;
    sum.nanos += nanos;
    sums.set(text, sum);
  }
  return [...sums].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, sum]) => sum);
}

function toRow({ key, calls, errors, nanos }: Sum): string[] {
  return [...key, calls.toString(), errors.toString(), nanos.toString()];
}

async function addUsage(tx: Tx, sums: Sum[]): Promise<void> {
  const types = ["text", "text", "text", "timestamptz", "date", "int8", "int8", "int8"];
  await tx.query(sql.type(nothing)`
    insert into usage_rollups as total (
      account_id, mode, api_id, bucket, booked_month, calls, errors, charged_nanos
    )
    select * from ${sql.unnest(sums.map(toRow), types)}
    on conflict (account_id, mode, api_id, bucket, booked_month) do update set
      calls = total.calls + excluded.calls,
      errors = total.errors + excluded.errors,
      charged_nanos = total.charged_nanos + excluded.charged_nanos
  `);
}

async function addRevenue(tx: Tx, sums: Sum[]): Promise<void> {
  const types = [
    "text",
    "text",
    "text",
    "timestamptz",
    "text",
    "text",
    "date",
    "int8",
    "int8",
    "int8",
  ];
  await tx.query(sql.type(nothing)`
    insert into revenue_rollups as total (
      account_id, mode, api_id, bucket, endpoint, consumer_account_id, booked_month, calls, errors,
      revenue_nanos
    )
    select * from ${sql.unnest(sums.map(toRow), types)}
    on conflict (
      account_id, mode, api_id, bucket, endpoint, consumer_account_id, booked_month
    ) do update set
      calls = total.calls + excluded.calls,
      errors = total.errors + excluded.errors,
      revenue_nanos = total.revenue_nanos + excluded.revenue_nanos
  `);
}
