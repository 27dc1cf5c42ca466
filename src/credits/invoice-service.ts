import type { ServiceImpl } from "@connectrpc/connect";
import type { InvoiceService } from "../../gen/callora/credits/v1/invoice_service_pb.ts";
import type { Database } from "../db/database.ts";
import type { Tx } from "../db/pool.ts";
import { notBuilt } from "../rpc/errors.ts";

/** What the handlers of invoices are built from. */
export interface InvoiceServiceDeps {
  db: Database;
  /** The journal is applied up to this position. */
  watermark: (tx: Tx) => Promise<bigint>;
  now: () => Date;
}

/** The handlers of proto/callora/credits/v1/invoice_service.proto. */
export function invoiceService(_deps: InvoiceServiceDeps): ServiceImpl<typeof InvoiceService> {
  return {
    async listInvoices() {
      throw notBuilt("InvoiceService/ListInvoices");
    },

    async getInvoice() {
      throw notBuilt("InvoiceService/GetInvoice");
    },
  };
}
