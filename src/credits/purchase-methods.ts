import type { ServiceImpl } from "@connectrpc/connect";
import {
  type CreditService,
  type PurchaseCreditsRequest,
  PurchaseCreditsResponseSchema,
  RefundPurchaseResponseSchema,
} from "../../gen/callora/credits/v1/credit_service_pb.ts";
import type { Database } from "../db/database.ts";
import { once } from "../db/once.ts";
import { newId } from "../lib/id.ts";
import { failedPrecondition, invalidArgument, notFound } from "../rpc/errors.ts";
import { requirePrincipal, requireTenant } from "../rpc/principal.ts";
import { retryOf } from "../rpc/retry.ts";
import { findPlan } from "./plan-store.ts";
import type { PaymentSource } from "./purchase.ts";
import {
  findPurchase,
  insertPurchase,
  insertPurchaseEntry,
  lockPurchase,
  noteRefunded,
} from "./purchase-store.ts";
import { showBalance, toPurchase } from "./shown.ts";
import { refundCredit } from "./take.ts";

/** What the handlers need that sell credit, and take it back. */
export interface PurchaseDeps {
  db: Database;
  /** What takes payments. The first one does when a purchase names none. */
  sources: readonly PaymentSource[];
  now: () => Date;
}

type Methods = Pick<
  ServiceImpl<typeof CreditService>,
  "purchaseCredits" | "getPurchase" | "refundPurchase"
>;

/** How long a price is promised. */
const promisedMs = 24 * 60 * 60 * 1_000;

/** The handlers that sell credit, and take it back. */
export function purchaseMethods({ db, sources, now }: PurchaseDeps): Methods {
  /** What is bought, at which price. */
  async function offerOf(req: PurchaseCreditsRequest, source: PaymentSource) {
    if (req.planId !== "") {
      const plan = await db.systemTransaction((tx) => findPlan(tx, req.planId));
      if (plan === null) {
        throw invalidArgument([{ field: "plan_id", description: "is no plan" }], "PLAN_UNKNOWN");
      }
      const { price_nanos, credit_nanos, bonus_nanos } = plan;
      return { plan_id: plan.id, price_nanos, credit_nanos, bonus_nanos };
    }
    const { amountNanos } = req;
    checkUnit(amountNanos, source);
    return { plan_id: "", price_nanos: amountNanos, credit_nanos: amountNanos, bonus_nanos: 0n };
  }

  return {
    async purchaseCredits(req, ctx) {
      const tenant = requireTenant(ctx);
      const { accountId } = tenant;
      if (requirePrincipal(ctx).mode === "test") {
        throw failedPrecondition("TEST_KEY", "Cannot buy credit: a test key moves no real money");
      }
      const source = sourceOf(sources, req.source);
      const time = now();
      const id = newId("pur", time);
      const offer = await offerOf(req, source);
      const times = { now: time, expireAt: new Date(time.getTime() + promisedMs) };
      const scope = { accountId, retry: retryOf(ctx), response: PurchaseCreditsResponseSchema };
      return db.tenantTransaction(tenant, (tx, audit) =>
        once(tx, { ...scope, audit }, async () => {
          const purchase = { account_id: accountId, id, source: source.name, ...offer };
          const row = await insertPurchase(tx, purchase, times);
          await insertPurchaseEntry(tx, { accountId, purchaseId: id });
          audit.record(`purchase:${id}`, `${offer.price_nanos} nano-USDC by ${source.name}`);
          return { purchase: toPurchase(row, { sources, now: time }) };
        }),
      );
    },

    async getPurchase({ purchaseId: id }, ctx) {
      const { accountId } = requirePrincipal(ctx);
      const row = await db.tenantRead(accountId, (tx) => findPurchase(tx, { accountId, id }));
      if (row === null) {
        throw notFound("the purchase");
      }
      return { purchase: toPurchase(row, { sources, now: now() }) };
    },

    async refundPurchase({ purchaseId, amountNanos, note }, ctx) {
      const tenant = requireTenant(ctx);
      const scope = { accountId: tenant.accountId, retry: retryOf(ctx) };
      const time = now();
      return db.platformTransaction(tenant, (tx, audit) =>
        once(tx, { ...scope, response: RefundPurchaseResponseSchema, audit }, async () => {
          const purchase = await lockPurchase(tx, purchaseId);
          if (purchase === null) {
            throw notFound("the purchase");
          }
          const { account_id: accountId } = purchase;
          checkUnit(amountNanos, sourceOf(sources, purchase.source));
          const id = newId("ret", time);
          const refund = { accountId, mode: "live", id, amountNanos, purchaseId, note } as const;
          await refundCredit(tx, refund, time);
          const row = await noteRefunded(tx, purchase, amountNanos);
          audit.record(`purchase:${purchaseId}`, `${amountNanos} nano-USDC to pay back: ${note}`);
          return {
            purchase: toPurchase(row, { sources, now: time }),
            balance: await showBalance(tx, accountId, "live"),
          };
        }),
      );
    },
  };
}

/** Throws INVALID_ARGUMENT on what a source can neither take nor pay back. */
function checkUnit(amountNanos: bigint, { unitNanos }: PaymentSource): void {
  if (amountNanos % unitNanos !== 0n) {
    const description = `must be a multiple of ${unitNanos}: nothing smaller can be paid`;
    throw invalidArgument([{ field: "amount_nanos", description }]);
  }
}

/** The source that is named, or the first one. */
function sourceOf(sources: readonly PaymentSource[], name: string): PaymentSource {
  const source = name === "" ? sources[0] : sources.find((one) => one.name === name);
  if (source === undefined) {
    const description = `must be one of: ${sources.map((one) => one.name).join(", ")}`;
    throw invalidArgument([{ field: "source", description }], "SOURCE_UNKNOWN");
  }
  return source;
}
