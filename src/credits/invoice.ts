import { create } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import {
  type Invoice,
  InvoiceSchema,
  InvoiceState,
} from "../../gen/callora/credits/v1/invoice_service_pb.ts";
import type { Mode } from "../ledger/store.ts";

/** What one version of an API's price came to in a month. */
export interface BilledLine {
  apiId: string;
  priceVersion: number;
  calls: bigint;
  units: bigint;
  /** Before corrections. */
  chargedNanos: bigint;
  correctedNanos: bigint;
}

/** What moved an account's balance in a month, besides charges. Amounts are nano-USDC. */
export interface MonthSums {
  /** The balance at its beginning, less what was owed. Negative: more was owed. */
  openingNanos: bigint;
  creditedNanos: bigint;
  expiredNanos: bigint;
  refundedNanos: bigint;
  /** Negative: more was taken than given. */
  adjustedNanos: bigint;
  /** Whether anything of it moved. */
  hasMoved: boolean;
}

/** What an invoice is made of. */
export interface InvoiceParts {
  accountId: string;
  mode: Mode;
  /** By its first day, for example `2026-11-01`. */
  month: string;
  sums: MonthSums;
  lines: readonly BilledLine[];
  /** Of the lines' APIs, by id. */
  names: ReadonlyMap<string, string>;
  /** The journal was applied up to this position. */
  watermark: bigint;
  /** Null: it is a draft. */
  issued: { id: string; time: Date } | null;
}

/** Make an invoice. What was charged is the sum of its lines; the balance at its end follows from all the rest. */
export function makeInvoice(parts: InvoiceParts): Invoice {
  const { month, mode, sums, lines, names, watermark, issued } = parts;
  const chargedNanos = lines.reduce(
    (sum, line) => sum + line.chargedNanos + line.correctedNanos,
    0n,
  );
  const { openingNanos, creditedNanos, expiredNanos, refundedNanos, adjustedNanos } = sums;
  return create(InvoiceSchema, {
    month: month.slice(0, 7),
    test: mode === "test",
    lines: lines.map((line) => ({ ...line, apiName: names.get(line.apiId) ?? "" })),
    chargedNanos,
    openingNanos,
    creditedNanos,
    expiredNanos,
    refundedNanos,
    adjustedNanos,
    closingNanos:
      openingNanos + creditedNanos + adjustedNanos - chargedNanos - expiredNanos - refundedNanos,
    watermark,
    ...(issued === null
      ? { state: InvoiceState.DRAFT }
      : {
          state: InvoiceState.ISSUED,
          id: issued.id,
          number: invoiceNumber(parts),
          issueTime: timestampFromDate(issued.time),
        }),
  });
}

/** One for each account, month and mode, for example `01k81hbeh1fr29j4vk5d5a3trf-202611`. */
function invoiceNumber({ accountId, month, mode }: InvoiceParts): string {
  const own = `${accountId.slice("acc_".length)}-${month.slice(0, 7).replace("-", "")}`;
  return mode === "test" ? `${own}-test` : own;
}
