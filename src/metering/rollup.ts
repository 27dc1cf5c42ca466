import { sql } from "slonik";
import { nothing, type Tx } from "../db/pool.ts";
import { bucketOf, monthOf, statusOf, type UsageEntry } from "./entry.ts";

interface Sum {
  key: string[];
  calls: bigint;
  errors: bigint;
  nanos: bigint;
}

/** Add events to the sums of their consumers and of their developers. */
export async function addRollups(tx: Tx, events: readonly UsageEntry[]): Promise<void> {
  if (events.length === 0) {
    return;
  }
  await addUsage(
    tx,
    sumBy(events, (e) => [
      e.account,
      e.mode,
      e.price.apiId,
      bucketOf(e.timeMicros),
      monthOf(e.timeMicros),
    ]),
  );
  await addRevenue(
    tx,
    sumBy(events, (e) => [
      e.price.developerId,
      e.mode,
      e.price.apiId,
      bucketOf(e.timeMicros),
      e.endpoint,
      e.account,
      monthOf(e.timeMicros),
    ]),
  );
}

/** Sorted, so that two projectors of different shards lock rows in one order. */
function sumBy(events: readonly UsageEntry[], keyOf: (event: UsageEntry) => string[]): Sum[] {
  const sums = new Map<string, Sum>();
  for (const event of events) {
    const key = keyOf(event);
    const text = JSON.stringify(key);
    const sum = sums.get(text) ?? { key, calls: 0n, errors: 0n, nanos: 0n };
    sum.calls += 1n;
    sum.errors += isError(event) ? 1n : 0n;
    sum.nanos += event.chargedNanos;
    sums.set(text, sum);
  }
  return [...sums].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, sum]) => sum);
}

function isError(event: UsageEntry): boolean {
  return statusOf(event) >= 400;
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
