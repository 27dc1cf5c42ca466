import { toJsonString } from "@bufbuild/protobuf";
import { InvoiceSchema } from "../../gen/callora/credits/v1/invoice_service_pb.ts";
import type { Database } from "../db/database.ts";
import type { Tx } from "../db/pool.ts";
import { newId } from "../lib/id.ts";
import { type InvoiceSources, readInvoice } from "./invoice-draft.ts";
import {
  findIssued,
  insertInvoice,
  insertRounds,
  listConsumers,
  lockRound,
  updateRound,
} from "./invoice-store.ts";

/** What issues invoices. */
export interface InvoiceLoopDeps extends InvoiceSources {
  db: Database;
  /** Months that nothing more is billed in, by first day, and the position that they were closed at. */
  findClosedMonths: (tx: Tx, from: string) => Promise<ReadonlyMap<string, bigint>>;
  now: () => Date;
}

const accountsMax = 100;
/** How long after a month's end its transfers may still be on their way. */
const restMs = 60 * 60 * 1_000;

/**
 * Issue the invoices of up to 100 accounts for the oldest closed month that is not done. True: there may be more.
 *
 * A month is ripe once all of the journal that counts for it is applied.
 */
export function issueInvoices(deps: InvoiceLoopDeps): Promise<boolean> {
  return deps.db.systemTransaction(async (tx) => {
    const now = deps.now();
    const closed = await deps.findClosedMonths(tx, "0001-01-01");
    const watermark = await deps.watermark(tx);
    const ripe = [...closed].filter(
      ([month, position]) => position <= watermark && endOf(month) + restMs <= now.getTime(),
    );
    await insertRounds(
      tx,
      ripe.map(([month]) => month),
    );
    const round = await lockRound(tx);
    if (round === null) {
      return false;
    }
    const { month } = round;
    const accounts = await listConsumers(tx, { after: round.after_account, limit: accountsMax });
    for (const accountId of accounts) {
      for (const mode of ["live", "test"] as const) {
        await issue(tx, deps, { accountId, mode, month, watermark, now });
      }
    }
    const isDone = accounts.length < accountsMax;
    const after = accounts.at(-1) ?? round.after_account;
    await updateRound(tx, { month, after, doneAt: isDone ? now : null });
    return true;
  });
}

async function issue(
  tx: Tx,
  sources: InvoiceSources,
  of: { accountId: string; mode: "live" | "test"; month: string; watermark: bigint; now: Date },
): Promise<void> {
  const { now } = of;
  if ((await findIssued(tx, of)) !== null) {
    return;
  }
  const id = newId("ivc", now);
  const invoice = await readInvoice(tx, sources, { ...of, issued: { id, time: now } });
  if (invoice === null) {
    return;
  }
  const { number, chargedNanos } = invoice;
  const content = toJsonString(InvoiceSchema, invoice);
  await insertInvoice(tx, { ...of, id, number, content, chargedNanos });
}

/** When a month, given by its first day, ends. */
function endOf(month: string): number {
  const end = new Date(`${month}T00:00:00.000Z`);
  return end.setUTCMonth(end.getUTCMonth() + 1);
}
