import type { Invoice } from "../../gen/callora/credits/v1/invoice_service_pb.ts";
import type { Queries, Tx } from "../db/pool.ts";
import { type BilledLine, type InvoiceParts, makeInvoice } from "./invoice.ts";
import { type Billed, readMonthSums } from "./invoice-store.ts";

/** What invoices are made from besides credits' own tables. */
export interface InvoiceSources {
  /** The lines of an account's month, for example `2026-11-01`, by API and version. */
  listLines: (db: Queries, of: Billed & { month: string }) => Promise<readonly BilledLine[]>;
  /** By the API's id, whoever's it is. */
  listApiNames: (db: Queries, apiIds: readonly string[]) => Promise<ReadonlyMap<string, string>>;
  /** The journal is applied up to this position. */
  watermark: (tx: Tx) => Promise<bigint>;
}

/** Make the invoice of a month as it is now. Null: nothing moved and nothing was billed in it. */
export async function readInvoice(
  tx: Tx,
  { listLines, listApiNames }: Omit<InvoiceSources, "watermark">,
  of: Billed & { month: string } & Pick<InvoiceParts, "issued" | "watermark">,
): Promise<Invoice | null> {
  const sums = await readMonthSums(tx, of);
  // What was billed meanwhile is in no sum of the month but that of its lines.
  const lines = await listLines(tx, of);
  if (lines.length === 0 && !sums.hasMoved) {
    return null;
  }
  const apiIds = new Set(lines.map(({ apiId }) => apiId));
  const names = await listApiNames(tx, [...apiIds]);
  return makeInvoice({ ...of, sums, lines, names });
}
