import { timestampDate } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import type { CreditService } from "../../gen/callora/credits/v1/credit_service_pb.ts";
import type { Tx } from "../db/pool.ts";
import { splitPage } from "../lib/page-token.ts";
import { pageOf } from "../rpc/page.ts";
import { requirePrincipal } from "../rpc/principal.ts";
import { type GrantDeps, grantMethods } from "./grant-methods.ts";
import { listGrants } from "./grant-store.ts";
import { listPlans } from "./plan-store.ts";
import { type PurchaseDeps, purchaseMethods } from "./purchase-methods.ts";
import { showBalance, sourceTypeOf, toGrant, toPlan, toTransaction } from "./shown.ts";
import { listTransactions } from "./store.ts";

interface Deps extends GrantDeps, PurchaseDeps {
  /** The journal is applied up to this position. */
  watermark: (tx: Tx) => Promise<bigint>;
}

/** The handlers of proto/callora/credits/v1/credit_service.proto. */
export function creditService(deps: Deps): ServiceImpl<typeof CreditService> {
  const { db } = deps;
  return {
    ...grantMethods(deps),
    ...purchaseMethods(deps),

    async getBalance(_req, ctx) {
      const { accountId, mode } = requirePrincipal(ctx);
      // Read before the balance, so that it holds at least what the watermark says.
      const watermark = await db.systemTransaction(deps.watermark);
      const balance = await db.tenantRead(accountId, (tx) => showBalance(tx, accountId, mode));
      return { balance, watermark };
    },

    async listTransactions(req, ctx) {
      const { accountId, mode } = requirePrincipal(ctx);
      const { size, after } = pageOf(req);
      const watermark = await db.systemTransaction(deps.watermark);
      const rows = await db.tenantRead(accountId, (tx) =>
        listTransactions(tx, {
          accountId,
          mode,
          type: sourceTypeOf(req.type),
          from: req.startTime === undefined ? null : timestampDate(req.startTime),
          to: req.endTime === undefined ? null : timestampDate(req.endTime),
          after,
          limit: size + 1,
        }),
      );
      const { page, nextPageToken } = splitPage(rows, { size, id: (row) => row.id });
      return { transactions: page.map(toTransaction), nextPageToken, watermark };
    },

    async listGrants(req, ctx) {
      const { accountId, mode } = requirePrincipal(ctx);
      const { size, after } = pageOf(req);
      const { includeUsed: withUsed } = req;
      const watermark = await db.systemTransaction(deps.watermark);
      const rows = await db.tenantRead(accountId, (tx) =>
        listGrants(tx, { accountId, mode, withUsed, after, limit: size + 1 }),
      );
      const { page, nextPageToken } = splitPage(rows, { size, id: (row) => row.id });
      return { grants: page.map(toGrant), nextPageToken, watermark };
    },

    async listPlans() {
      // Plans belong to no account: only the server's own role reads them.
      const plans = await db.systemTransaction(listPlans);
      return { plans: plans.map(toPlan) };
    },
  };
}
