import { sql } from "slonik";
import { nothing, type Tx } from "../db/pool.ts";
import { type AppliedEvent, bucketOf } from "./event.ts";

interface Sum {
  key: string[];
  calls: bigint;
  errors: bigint;
  nanos: bigint;
}

/** Add events to the sums of their consumers and of their developers. */
export async function addRollups(tx: Tx, events: AppliedEvent[]): Promise<void> {
  if (events.length === 0) {
    return;
  }
  await addUsage(
    tx,
    sumBy(events, (e) => [e.account, e.mode, e.api, bucketOf(e.time)]),
  );
  await addRevenue(
    tx,
    sumBy(events, (e) => [e.developer, e.mode, e.api, bucketOf(e.time), e.endpoint, e.account]),
  );
}

/** Sorted, so that two projectors of different shards lock rows in one order. */
function sumBy(events: AppliedEvent[], keyOf: (event: AppliedEvent) => string[]): Sum[] {
  const sums = new Map<string, Sum>();
  for (const event of events) {
    const key = keyOf(event);
    const text = JSON.stringify(key);
    const sum = sums.get(text) ?? { key, calls: 0n, errors: 0n, nanos: 0n };
    sum.calls += 1n;
    sum.errors += isError(event) ? 1n : 0n;
    sum.nanos += event.charged;
    sums.set(text, sum);
  }
  return [...sums].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, sum]) => sum);
}

function isError({ status }: AppliedEvent): boolean {
  return status === 0 || status >= 400;
}

function toRow({ key, calls, errors, nanos }: Sum): string[] {
  return [...key, calls.toString(), errors.toString(), nanos.toString()];
}

async function addUsage(tx: Tx, sums: Sum[]): Promise<void> {
  const types = ["text", "text", "text", "timestamptz", "int8", "int8", "int8"];
  await tx.query(sql.type(nothing)`
    insert into usage_rollups as total (
      account_id, mode, api_id, bucket, calls, errors, charged_nanos
    )
    select * from ${sql.unnest(sums.map(toRow), types)}
    on conflict (account_id, mode, api_id, bucket) do update set
      calls = total.calls + excluded.calls,
      errors = total.errors + excluded.errors,
      charged_nanos = total.charged_nanos + excluded.charged_nanos
  `);
}

async function addRevenue(tx: Tx, sums: Sum[]): Promise<void> {
  const types = ["text", "text", "text", "timestamptz", "text", "text", "int8", "int8", "int8"];
  await tx.query(sql.type(nothing)`
    insert into revenue_rollups as total (
      account_id, mode, api_id, bucket, endpoint, consumer_account_id, calls, errors, revenue_nanos
    )
    select * from ${sql.unnest(sums.map(toRow), types)}
    on conflict (account_id, mode, api_id, bucket, endpoint, consumer_account_id) do update set
      calls = total.calls + excluded.calls,
      errors = total.errors + excluded.errors,
      revenue_nanos = total.revenue_nanos + excluded.revenue_nanos
  `);
}
