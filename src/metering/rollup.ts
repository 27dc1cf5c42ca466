import { sql } from "slonik";
import { type Column, selectColumns } from "../db/columns.ts";
import { nothing, type Tx } from "../db/pool.ts";
import type { Mode } from "../ledger/store.ts";
import { branch } from "../lib/branch.ts";
import { inTurns } from "../lib/turns.ts";
import type { Applied } from "./applied-event.ts";
import { bucketMicrosOf, quarterIndexOf, statusOf } from "./entry.ts";

/** What is added to one row of either table: the sum of events that are alike in all that the row is known by. */
interface Sum {
  like: RollupChange;
  /** What it is sorted by. */
  name: string;
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

/** A consumer's sum, and the developers' that it is made of, by developer and endpoint. */
interface Place {
  usage: Sum;
  revenue: Map<string, Map<string, Sum>>;
}

/** Sums by quarter of an hour. Sorted, so that two transactions lock rows in one order. */
async function sumUp(events: readonly RollupChange[]): Promise<Sums> {
  const sums: Sums = { usage: [], revenue: [] };
  const byQuarter = new Map<number, Map<string, Map<Mode, Map<string, Map<string, Place>>>>>();
  await inTurns(events, (event) => {
    const { entry, bookedMonth, calls, nanos } = event;
    const { account, mode, price, endpoint, timeMicros } = entry;
    const byAccount = branch(byQuarter, quarterIndexOf(timeMicros));
    const byMonth = branch(branch(branch(byAccount, account), mode), price.apiId);
    let place = byMonth.get(bookedMonth);
    if (place === undefined) {
      place = { usage: newSum(sums.usage, event), revenue: new Map() };
      byMonth.set(bookedMonth, place);
    }
    const byEndpoint = branch(place.revenue, price.developerId);
    let revenue = byEndpoint.get(endpoint);
    if (revenue === undefined) {
      revenue = newSum(sums.revenue, event);
      byEndpoint.set(endpoint, revenue);
    }
    const errors = statusOf(entry) >= 400 ? calls : 0n;
    const added = { calls, errors, nanos };
    addTo(place.usage, added);
    addTo(revenue, added);
  });
  return { usage: inOrder(sums.usage), revenue: inOrder(sums.revenue) };
}

function newSum(sums: Sum[], like: RollupChange): Sum {
  const { entry, bookedMonth } = like;
  const { account, mode, price, endpoint, timeMicros } = entry;
  const bucketMicros = bucketMicrosOf(timeMicros);
  const parts = [account, mode, price.apiId, bookedMonth, price.developerId, endpoint];
  const name = `${quarterIndexOf(timeMicros)} ${parts.join(" ")}`;
  const sum = { like, name, bucketMicros, calls: 0n, errors: 0n, nanos: 0n };
  sums.push(sum);
  return sum;
}

function addTo(sum: Sum, added: Pick<Sum, "calls" | "errors" | "nanos">): void {
  sum.calls += added.calls;
  sum.errors += added.errors;
  sum.nanos += added.nanos;
}

function inOrder(sums: Sum[]): Sum[] {
  return sums.sort((a, b) => (a.name < b.name ? -1 : 1));
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
