import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import {
  type CreditService,
  GrantCreditsResponseSchema,
  TransactionType,
} from "../../gen/callora/credits/v1/credit_service_pb.ts";
import type { Database } from "../db/database.ts";
import { once } from "../db/once.ts";
import type { Tx } from "../db/pool.ts";
import { postGrant } from "../ledger/grant.ts";
import { newId } from "../lib/id.ts";
import { splitPage } from "../lib/page-token.ts";
import { notBuilt, notFound } from "../rpc/errors.ts";
import { pageOf } from "../rpc/page.ts";
import { requirePrincipal, requireTenant } from "../rpc/principal.ts";
import { retryOf } from "../rpc/retry.ts";
import { type BalanceRow, getBalance, listTransactions, type TransactionRow } from "./store.ts";

/** The handlers of proto/callora/credits/v1/credit_service.proto. */
export function creditService(deps: {
  db: Database;
  existsAccount: (tx: Tx, accountId: string) => Promise<boolean>;
  /** The journal is applied up to this position. */
  watermark: (tx: Tx) => Promise<bigint>;
  now: () => Date;
}): ServiceImpl<typeof CreditService> {
  const { db, now } = deps;
  return {
    async getBalance(_req, ctx) {
      const { accountId, mode } = requirePrincipal(ctx);
      // Read before the balance, so that it holds at least what the watermark says.
      const watermark = await db.systemTransaction(deps.watermark);
      const row = await db.tenantRead(accountId, (tx) => getBalance(tx, accountId, mode));
      return { balance: toBalance(row), watermark };
    },

    async listTransactions(req, ctx) {
      const { accountId, mode } = requirePrincipal(ctx);
      const { size, after } = pageOf(req);
      const watermark = await db.systemTransaction(deps.watermark);
      const rows = await db.tenantRead(accountId, (tx) =>
        listTransactions(tx, { accountId, mode, after, limit: size + 1 }),
      );
      const { page, nextPageToken } = splitPage(rows, { size, id: (row) => row.id });
      return { transactions: page.map(toTransaction), nextPageToken, watermark };
    },

    async grantCredits(req, ctx) {
      const tenant = requireTenant(ctx);
      const retry = retryOf(ctx);
      const mode = req.test ? "test" : "live";
      return db.platformTransaction(tenant, async (tx, audit) => {
        const scope = {
          accountId: tenant.accountId,
          retry,
          response: GrantCreditsResponseSchema,
          audit,
        };
        return once(tx, scope, async () => {
          if (!(await deps.existsAccount(tx, req.accountId))) {
            throw notFound("the account");
          }
          const id = newId("grt", now());
          await postGrant(
            tx,
            { id, accountId: req.accountId, mode, amountNanos: req.amountNanos },
            now(),
          );
          const detail = `${id}: ${req.amountNanos} nano-USDC (${mode}) ${req.note}`;
          audit.record(`account:${req.accountId}`, detail.trimEnd());
          return { balance: toBalance(await getBalance(tx, req.accountId, mode)) };
        });
      });
    },

    async listGrants() {
      throw notBuilt("CreditService/ListGrants");
    },

    async grantTestCredits() {
      throw notBuilt("CreditService/GrantTestCredits");
    },

    async listPlans() {
      throw notBuilt("CreditService/ListPlans");
    },

    async purchaseCredits() {
      throw notBuilt("CreditService/PurchaseCredits");
    },

    async getPurchase() {
      throw notBuilt("CreditService/GetPurchase");
    },

    async adjustCredits() {
      throw notBuilt("CreditService/AdjustCredits");
    },

    async refundPurchase() {
      throw notBuilt("CreditService/RefundPurchase");
    },
  };
}

function toBalance(row: BalanceRow) {
  return {
    availableNanos: row.available_nanos,
    reservedNanos: row.reserved_nanos,
    grantedNanos: row.granted_nanos,
    chargedNanos: row.charged_nanos,
  };
}

function toTransaction(row: TransactionRow) {
  const incoming = row.credit_kind === "consumer";
  return {
    id: row.id,
    createTime: timestampFromMs(row.created_at),
    type: incoming ? TransactionType.GRANT : TransactionType.CHARGE,
    amountNanos: incoming ? row.amount_nanos : -row.amount_nanos,
    source: `${row.source_type}:${row.source_id}`,
  };
}
