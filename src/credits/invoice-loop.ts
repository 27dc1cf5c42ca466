import { toJsonString } from "@bufbuild/protobuf";
import { InvoiceSchema } from "../../gen/callora/credits/v1/invoice_service_pb.ts";
import type { Database } from "../db/database.ts";
import type { Tx } from "../db/pool.ts";
import { newId } from "../lib/id.ts";
import { type InvoiceSources, readInvoice } from "./invoice-draft.ts";
import {
  deleteRetry,
  findIssued,
  findRound,
  insertInvoice,
  insertRounds,
  listConsumers,
  listRetries,
  type MonthOfAccount,
  updateRound,
  upsertRetry,
} from "./invoice-store.ts";

/** What issues invoices. */
export interface InvoiceLoopDeps extends InvoiceSources {
  db: Database;
  /** Months that nothing more is billed in, by first day, and the position that they were closed at. */
  findClosedMonths: (tx: Tx, from: string) => Promise<ReadonlyMap<string, bigint>>;
  /** Told whose invoice could not be issued. It is tried again once all others are. */
  onFailed: (error: unknown, of: MonthOfAccount) => void;
  now: () => Date;
}

const accountsMax = 100;
/** How long after a month's end its transfers may still be on their way. */
const restMs = 60 * 60 * 1_000;

/**
 * Issue the invoices of up to 100 accounts for the oldest closed month that is not done, or else those that could not
 * be issued before. True: there may be more.
 *
 * A month is ripe once all of the journal that counts for it is applied. Each account has a transaction of its own:
 * one that fails stops no other. An invoice is issued once, however many processes do this.
 */
export async function issueInvoices(deps: InvoiceLoopDeps): Promise<boolean> {
  const { db } = deps;
  const now = deps.now();
  const next = await db.systemTransaction((tx) => findNext(tx, deps, now));
  if (next === null) {
    await issueAgain(deps, now);
    return false;
  }
  const { month, from, accounts } = next;
  for (const accountId of accounts) {
    if (!(await tryIssue(deps, { accountId, month }, now))) {
      await db.systemTransaction((tx) => upsertRetry(tx, { accountId, month }));
    }
  }
  const doneAt = accounts.length < accountsMax ? now : null;
  const after = accounts.at(-1) ?? from;
  await db.systemTransaction((tx) => updateRound(tx, { month, from, after, doneAt }));
  return true;
}

/** The next accounts of the oldest month that is not done. Null: all are. */
async function findNext(tx: Tx, deps: InvoiceLoopDeps, now: Date) {
  const closed = await deps.findClosedMonths(tx, "0001-01-01");
  const watermark = await deps.watermark(tx);
  const ripe = [...closed].filter(
    ([month, position]) => position <= watermark && endOf(month) + restMs <= now.getTime(),
  );
  await insertRounds(
    tx,
    ripe.map(([month]) => month),
  );
  const round = await findRound(tx);
  if (round === null) {
    return null;
  }
  const { month, after_account: from } = round;
  return { month, from, accounts: await listConsumers(tx, { after: from, limit: accountsMax }) };
}

async function issueAgain(deps: InvoiceLoopDeps, now: Date): Promise<void> {
  const { db } = deps;
  for (const of of await db.systemTransaction((tx) => listRetries(tx, accountsMax))) {
    const isIssued = await tryIssue(deps, of, now);
    await db.systemTransaction((tx) => (isIssued ? deleteRetry(tx, of) : upsertRetry(tx, of)));
  }
}

/** Issue an account's invoices of a month. False: it failed, and nothing of them is there. */
async function tryIssue(deps: InvoiceLoopDeps, of: MonthOfAccount, now: Date): Promise<boolean> {
  try {
    await deps.db.systemTransaction(async (tx) => {
      const watermark = await deps.watermark(tx);
      for (const mode of ["live", "test"] as const) {
        await issue(tx, deps, { ...of, mode, watermark, now });
      }
    });
    return true;
  } catch (error) {
    deps.onFailed(error, of);
    return false;
  }
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
