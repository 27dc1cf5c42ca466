import { expect, test } from "vitest";
import { type InvoiceParts, makeInvoice } from "./invoice.ts";

const sums = {
  openingNanos: 0n,
  creditedNanos: 0n,
  expiredNanos: 0n,
  refundedNanos: 0n,
  adjustedNanos: 0n,
  hasMoved: true,
};

function numberOf(of: Partial<InvoiceParts>): string {
  const issued = { id: "ivc_1", time: new Date(0) };
  const rest = { lines: [], names: new Map(), watermark: 0n, issued, sums };
  const accountId = "acc_01k81hbeh1fr29j4vk5d5a3trf";
  return makeInvoice({ ...rest, accountId, month: "2026-11-01", mode: "live", ...of }).number;
}

test("no two invoices have the same number, however alike their accounts' ids are", () => {
  const numbers = [
    numberOf({}),
    numberOf({ month: "2026-10-01" }),
    numberOf({ mode: "test" }),
    numberOf({ accountId: "acc_01k81hbeh1fr29j4vk5e5a3trf" }),
    numberOf({ accountId: "acc_02k81hbeh1fr29j4vk5d5a3trf" }),
  ];

  expect(new Set(numbers).size).toBe(numbers.length);
  expect(numbers[0]).toBe("01k81hbeh1fr29j4vk5d5a3trf-202611");
});
