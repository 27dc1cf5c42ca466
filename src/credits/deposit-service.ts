import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import {
  AssignDepositResponseSchema,
  type DepositService,
} from "../../gen/callora/credits/v1/deposit_service_pb.ts";
import type { Database } from "../db/database.ts";
import { once } from "../db/once.ts";
import type { Tx } from "../db/pool.ts";
import { newId } from "../lib/id.ts";
import { splitPage } from "../lib/page-token.ts";
import { failedPrecondition, notFound } from "../rpc/errors.ts";
import { pageOf } from "../rpc/page.ts";
import { requireTenant } from "../rpc/principal.ts";
import { retryOf } from "../rpc/retry.ts";
import { type DepositRow, listDeposits, lockDeposit, noteAssigned } from "./deposit-store.ts";
import { grantPaid, type PaymentSource, type PurchasePaid } from "./purchase.ts";
import {
  findPurchase,
  insertPurchase,
  insertPurchaseEntry,
  lockPurchase,
  type PurchaseRow,
} from "./purchase-store.ts";
import { showBalance, toPurchase } from "./shown.ts";

/** What the handlers of deposits are built from. */
export interface DepositServiceDeps {
  db: Database;
  existsAccount: (tx: Tx, accountId: string) => Promise<boolean>;
  sources: readonly PaymentSource[];
  /** Leaves word of a purchase that was paid, in the transaction that grants it. */
  tell: (tx: Tx, told: PurchasePaid) => Promise<void>;
  now: () => Date;
}

/** The handlers of proto/callora/credits/v1/deposit_service.proto. */
export function depositService(deps: DepositServiceDeps): ServiceImpl<typeof DepositService> {
  const { db, existsAccount, sources, tell, now } = deps;

  async function show(tx: Tx, deposit: DepositRow, time: Date) {
    const { account_id: accountId, purchase_id: id } = deposit;
    const purchase = await findPurchase(tx, { accountId, id });
    return {
      deposit: toDeposit(deposit),
      ...(purchase === null ? {} : { purchase: toPurchase(purchase, { sources, now: time }) }),
      balance: await showBalance(tx, accountId, "live"),
    };
  }

  return {
    async listUnmatchedDeposits(req) {
      const { size, after } = pageOf(req);
      const { includeAssigned: withAssigned } = req;
      // They are of no account: only the server's own role reads them.
      const rows = await db.systemTransaction((tx) =>
        listDeposits(tx, { withAssigned, after, limit: size + 1 }),
      );
      const { page, nextPageToken } = splitPage(rows, { size, id: (row) => row.id });
      return { deposits: page.map(toDeposit), nextPageToken };
    },

    async assignDeposit({ depositId, accountId, purchaseId, note }, ctx) {
      const tenant = requireTenant(ctx);
      const scope = { accountId: tenant.accountId, retry: retryOf(ctx) };
      const time = now();
      return db.platformTransaction(tenant, (tx, audit) =>
        once(tx, { ...scope, response: AssignDepositResponseSchema, audit }, async () => {
          if (!(await existsAccount(tx, accountId))) {
            throw notFound("the account");
          }
          const deposit = await lockDeposit(tx, depositId);
          if (deposit === null) {
            throw notFound("the deposit");
          }
          if (deposit.account_id !== "") {
            checkSame(deposit, { accountId, purchaseId });
            audit.unchanged();
            return show(tx, deposit, time);
          }
          const purchase = await purchaseFor(tx, { deposit, accountId, purchaseId }, time);
          await tell(tx, await pay(tx, { deposit, purchase }, time));
          const detail = `${deposit.amount_nanos} nano-USDC to account:${accountId}: ${note}`;
          audit.record(`deposit:${depositId}`, detail);
          const assigned = { account_id: accountId, purchase_id: purchase.id };
          return show(tx, { ...deposit, ...assigned, assigned_at: time.getTime() }, time);
        }),
      );
    },
  };
}

interface Owner {
  accountId: string;
  /** Empty: whichever. */
  purchaseId: string;
}

/** Throws FAILED_PRECONDITION when a deposit was assigned otherwise. */
function checkSame(deposit: DepositRow, { accountId, purchaseId }: Owner): void {
  const isSame =
    deposit.account_id === accountId && (purchaseId === "" || deposit.purchase_id === purchaseId);
  if (!isSame) {
    const message = `Cannot assign the deposit: it pays for "${deposit.purchase_id}" already`;
    throw failedPrecondition("DEPOSIT_ASSIGNED", message);
  }
}

/** The purchase that a deposit pays for, locked. */
async function purchaseFor(
  tx: Tx,
  { deposit, accountId, purchaseId }: Owner & { deposit: DepositRow },
  now: Date,
): Promise<PurchaseRow> {
  const { source, amount_nanos: amountNanos } = deposit;
  if (purchaseId !== "") {
    const purchase = await lockPurchase(tx, purchaseId);
    if (purchase?.account_id !== accountId || purchase.source !== source) {
      throw notFound("the purchase");
    }
    return purchase;
  }
  const id = newId("pur", now);
  const amounts = { price_nanos: amountNanos, credit_nanos: amountNanos, bonus_nanos: 0n };
  const wanted = { account_id: accountId, id, source, plan_id: "", ...amounts };
  const purchase = await insertPurchase(tx, wanted, { now, expireAt: now });
  await insertPurchaseEntry(tx, { accountId, purchaseId: id });
  return purchase;
}

async function pay(
  tx: Tx,
  { deposit, purchase }: { deposit: DepositRow; purchase: PurchaseRow },
  now: Date,
): Promise<PurchasePaid> {
  const { id, amount_nanos: amountNanos, paid_at: paidMs } = deposit;
  const { account_id: accountId, id: purchaseId } = purchase;
  await noteAssigned(tx, { id, accountId, purchaseId }, now);
  const payment = { amountNanos, at: new Date(paidMs) };
  return grantPaid(tx, { purchase, payment, from: "treasury_equity" }, now);
}

function toDeposit(row: DepositRow) {
  return {
    id: row.id,
    createTime: timestampFromMs(row.created_at),
    payTime: timestampFromMs(row.paid_at),
    source: row.source,
    amountNanos: row.amount_nanos,
    detail: row.detail,
    accountId: row.account_id,
    purchaseId: row.purchase_id,
    ...(row.assigned_at === null ? {} : { assignTime: timestampFromMs(row.assigned_at) }),
  };
}
