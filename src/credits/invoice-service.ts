import { fromJsonString } from "@bufbuild/protobuf";
import type { ServiceImpl } from "@connectrpc/connect";
import {
  type Invoice,
  InvoiceSchema,
  type InvoiceService,
} from "../../gen/callora/credits/v1/invoice_service_pb.ts";
import type { Database } from "../db/database.ts";
import type { Tx } from "../db/pool.ts";
import { readSnapshot } from "../db/snapshot.ts";
import { splitPage } from "../lib/page-token.ts";
import { notFound } from "../rpc/errors.ts";
import { badPageToken, pageOf } from "../rpc/page.ts";
import { requirePrincipal } from "../rpc/principal.ts";
import { type InvoiceSources, readInvoice } from "./invoice-draft.ts";
import { type Billed, findIssued, listMonths } from "./invoice-store.ts";

/** What the handlers of invoices are built from. */
export interface InvoiceServiceDeps extends InvoiceSources {
  db: Database;
  now: () => Date;
}

/** The handlers of proto/callora/credits/v1/invoice_service.proto. */
export function invoiceService(deps: InvoiceServiceDeps): ServiceImpl<typeof InvoiceService> {
  const { db, now } = deps;
  return {
    async listInvoices(req, ctx) {
      const { accountId } = requirePrincipal(ctx);
      const { size, after } = pageOf(req);
      const of = { accountId, mode: modeOf(req) };
      const from = after === "" ? monthOf(now()) : monthBefore(after);
      const rows = await db.tenantRead(accountId, (tx) =>
        listMonths(tx, { ...of, from, limit: size + 1 }),
      );
      const { page, nextPageToken } = splitPage(rows, { size, id: ({ month }) => month });
      const drafts = page.flatMap(({ month, content }) => (content === "" ? [month] : []));
      const made = await draftsOf(deps, of, drafts);
      const invoices = page.flatMap(({ month, content }) => {
        const invoice = content === "" ? made.get(month) : read(content);
        return invoice === undefined ? [] : [{ ...invoice, lines: [] }];
      });
      return { invoices, nextPageToken };
    },

    async getInvoice(req, ctx) {
      const { accountId } = requirePrincipal(ctx);
      return { invoice: await getInvoice(deps, { ...req, accountId }) };
    },
  };
}

/** Get an account's invoice of a month, for example `2026-11`. Throws NOT_FOUND. */
export async function getInvoice(
  deps: InvoiceServiceDeps,
  { accountId, month, test }: { accountId: string; month: string; test: boolean },
): Promise<Invoice> {
  const of = { accountId, mode: modeOf({ test }), month: `${month}-01` };
  const content = await deps.db.tenantRead(accountId, (tx) => findIssued(tx, of));
  if (content !== null) {
    return read(content);
  }
  const draft = (await draftsOf(deps, of, [of.month])).get(of.month);
  if (draft === undefined) {
    throw notFound("the invoice");
  }
  return draft;
}

/** The account's drafts of months, by their first days. In one state, that of their watermark. */
async function draftsOf(
  deps: InvoiceServiceDeps,
  { accountId, mode }: Billed,
  months: readonly string[],
): Promise<ReadonlyMap<string, Invoice>> {
  const drafts = new Map<string, Invoice>();
  if (months.length === 0) {
    return drafts;
  }
  // An account sees the names of others' APIs only while they are published.
  await deps.db.systemTransaction(async (tx: Tx) => {
    await readSnapshot(tx);
    const watermark = await deps.watermark(tx);
    for (const month of months) {
      const of = { accountId, mode, month, watermark, issued: null };
      const draft = await readInvoice(tx, deps, of);
      if (draft !== null) {
        drafts.set(month, draft);
      }
    }
  });
  return drafts;
}

function read(content: string): Invoice {
  return fromJsonString(InvoiceSchema, content);
}

function modeOf({ test }: { test: boolean }): Billed["mode"] {
  return test ? "test" : "live";
}

/** The first day of the UTC month that a time lies in. */
function monthOf(time: Date): string {
  return `${time.toISOString().slice(0, 7)}-01`;
}

/** Throws INVALID_ARGUMENT on what is no month. */
function monthBefore(month: string): string {
  if (!/^[12]\d{3}-(?:0[1-9]|1[0-2])-01$/.test(month)) {
    throw badPageToken();
  }
  const time = new Date(`${month}T00:00:00.000Z`);
  time.setUTCMonth(time.getUTCMonth() - 1);
  return monthOf(time);
}
