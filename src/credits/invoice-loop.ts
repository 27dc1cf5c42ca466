import type { Database } from "../db/database.ts";

/** What issues invoices. */
export interface InvoiceLoopDeps {
  db: Database;
  now: () => Date;
}

/** Issue up to 100 invoices of closed months. True: there may be more. */
export async function issueInvoices(_deps: InvoiceLoopDeps): Promise<boolean> {
  return false;
}
