import { sql } from "slonik";
import { z } from "zod";
import { type Column, selectColumns } from "../db/columns.ts";
import { nothing, type Queries, type Tx } from "../db/pool.ts";
import type { Mode } from "../ledger/store.ts";
import { branch } from "../lib/branch.ts";
import { inTurns } from "../lib/turns.ts";
import type { Applied, Corrected } from "./applied-event.ts";
import { unitsOf } from "./entry.ts";

/** What one version of an API's price came to in a month, for an account. */
export interface BillLineRow {
  apiId: string;
  priceVersion: number;
  calls: bigint;
  units: bigint;
  /** Before corrections. */
  chargedNanos: bigint;
  /** What corrections added, or took. */
  correctedNanos: bigint;
}

/** What is added to a line. */
interface Sum extends BillLineRow {
  accountId: string;
  mode: Mode;
  bookedMonth: string;
}

/** Add applied events to the lines of bills. */
export function addBillLines(tx: Tx, events: readonly Applied[]): Promise<void> {
  return addLines(tx, events, ({ entry, bookedMonth }) => ({
    ...lineOf(entry, bookedMonth),
    calls: 1n,
    units: countedUnits(entry),
    chargedNanos: entry.chargedNanos,
    correctedNanos: 0n,
  }));
}

/** Add applied corrections to the lines of bills: those of the months that they are booked in. */
export function addCorrectedLines(tx: Tx, done: readonly Corrected[]): Promise<void> {
  return addLines(tx, done, ({ target, bookedMonth, deltaNanos }) => ({
    ...lineOf(target.entry, bookedMonth),
    calls: 0n,
    units: 0n,
    chargedNanos: 0n,
    correctedNanos: deltaNanos,
  }));
}

/** A call that failed used nothing, and one that said no units none: tiers of a month go on without them. */
export function countedUnits(entry: Applied["entry"]): bigint {
  const { outcome } = entry;
  return outcome === "failed" || outcome === "no_units" ? 0n : unitsOf(entry);
}

function lineOf({ account, mode, price }: Applied["entry"], bookedMonth: string) {
  const { apiId, version: priceVersion } = price;
  return { accountId: account, mode, bookedMonth, apiId, priceVersion };
}

const columns: Column<Sum>[] = [
  { type: "text", of: ({ accountId }) => accountId },
  { type: "text", of: ({ mode }) => mode },
  { type: "date", of: ({ bookedMonth }) => bookedMonth },
  { type: "text", of: ({ apiId }) => apiId },
  { type: "int4", of: ({ priceVersion }) => priceVersion },
  { type: "int8", of: ({ calls }) => calls },
  { type: "int8", of: ({ units }) => units },
  { type: "int8", of: ({ chargedNanos }) => chargedNanos },
  { type: "int8", of: ({ correctedNanos }) => correctedNanos },
];

async function addLines<T>(tx: Tx, things: readonly T[], partOf: (thing: T) => Sum): Promise<void> {
  if (things.length === 0) {
    return;
  }
  const sums = await sumUp(things, partOf);
  await tx.query(sql.prepared("add_billing_lines", nothing)`
    insert into billing_lines as line (
      account_id, mode, booked_month, api_id, price_version,
      calls, units, charged_nanos, corrected_nanos
    )
    select * from ${selectColumns(sums, columns)} as sum
    on conflict (account_id, mode, booked_month, api_id, price_version) do update set
      calls = line.calls + excluded.calls,
      units = line.units + excluded.units,
      charged_nanos = line.charged_nanos + excluded.charged_nanos,
      corrected_nanos = line.corrected_nanos + excluded.corrected_nanos
  `);
}

/** Sums by line, in one order: two that add to the same lines cannot wait for each other. */
async function sumUp<T>(things: readonly T[], partOf: (thing: T) => Sum): Promise<Sum[]> {
  const sums: Sum[] = [];
  const byAccount = new Map<string, Map<Mode, Map<string, Map<string, Map<number, Sum>>>>>();
  await inTurns(things, (thing) => {
    const part = partOf(thing);
    const byMonth = branch(branch(byAccount, part.accountId), part.mode);
    const byVersion = branch(branch(byMonth, part.bookedMonth), part.apiId);
    const sum = byVersion.get(part.priceVersion);
    if (sum === undefined) {
      byVersion.set(part.priceVersion, part);
      sums.push(part);
    } else {
      sum.calls += part.calls;
      sum.units += part.units;
      sum.chargedNanos += part.chargedNanos;
      sum.correctedNanos += part.correctedNanos;
    }
  });
  const named = sums.map((sum) => [nameOf(sum), sum] as const);
  return named.sort(([a], [b]) => (a < b ? -1 : 1)).map(([, sum]) => sum);
}

function nameOf({ accountId, mode, bookedMonth, apiId, priceVersion }: Sum): string {
  return `${accountId} ${mode} ${bookedMonth} ${apiId} ${priceVersion}`;
}

const lineRow = z.object({
  api_id: z.string(),
  price_version: z.number(),
  calls: z.bigint(),
  units: z.bigint(),
  charged_nanos: z.bigint(),
  corrected_nanos: z.bigint(),
});

/** List the lines of an account's month, for example `2026-11-01`, by API and version. */
export async function listBillLines(
  db: Queries,
  of: { accountId: string; month: string; mode: Mode },
): Promise<readonly BillLineRow[]> {
  const rows = await db.any(sql.type(lineRow)`
    select api_id, price_version, calls, units, charged_nanos, corrected_nanos from billing_lines
    where account_id = ${of.accountId} and mode = ${of.mode} and booked_month = ${of.month}
    order by api_id, price_version
  `);
  return rows.map((row) => ({
    apiId: row.api_id,
    priceVersion: row.price_version,
    calls: row.calls,
    units: row.units,
    chargedNanos: row.charged_nanos,
    correctedNanos: row.corrected_nanos,
  }));
}
