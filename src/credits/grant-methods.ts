import { type Timestamp, timestampDate } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import {
  AdjustCreditsResponseSchema,
  type CreditService,
  GrantCreditsResponseSchema,
  GrantTestCreditsResponseSchema,
} from "../../gen/callora/credits/v1/credit_service_pb.ts";
import type { Database } from "../db/database.ts";
import { once } from "../db/once.ts";
import type { Tx } from "../db/pool.ts";
import { newId } from "../lib/id.ts";
import { failedPrecondition, invalidArgument, notFound } from "../rpc/errors.ts";
import { requireTenant } from "../rpc/principal.ts";
import { retryOf } from "../rpc/retry.ts";
import { addCredit, type NewCredit, priorityDefault, promotionMoney } from "./credit.ts";
import { getGrant } from "./grant-store.ts";
import { showBalance, toGrant } from "./shown.ts";
import { takeCredit } from "./take.ts";

/** What the handlers need that give credit, or take it. */
export interface GrantDeps {
  db: Database;
  existsAccount: (tx: Tx, accountId: string) => Promise<boolean>;
  now: () => Date;
}

type Methods = Pick<
  ServiceImpl<typeof CreditService>,
  "grantCredits" | "grantTestCredits" | "adjustCredits"
>;

/** What a test balance may be: 100,000 USDC. */
const testNanosMax = 100_000_000_000_000n;

/** The handlers that give credit, or take it. */
export function grantMethods({ db, existsAccount, now }: GrantDeps): Methods {
  async function checkAccount(tx: Tx, accountId: string): Promise<void> {
    if (!(await existsAccount(tx, accountId))) {
      throw notFound("the account");
    }
  }

  return {
    async grantCredits(req, ctx) {
      const tenant = requireTenant(ctx);
      const scope = { accountId: tenant.accountId, retry: retryOf(ctx) };
      const time = now();
      const expireAt = endOf(req.expireTime, time);
      const { accountId, amountNanos, note } = req;
      const mode = req.test ? "test" : "live";
      const credit = {
        ...given({ accountId, mode, kind: "promotion", amountNanos, note }, time),
        priority: req.priority === 0 ? priorityDefault : req.priority,
        expireAt,
      };
      return db.platformTransaction(tenant, (tx, audit) =>
        once(tx, { ...scope, response: GrantCreditsResponseSchema, audit }, async () => {
          await checkAccount(tx, accountId);
          await addCredit(tx, credit, time);
          const detail = `${credit.grantId}: ${amountNanos} nano-USDC (${mode}) ${note}`;
          audit.record(`account:${accountId}`, detail.trimEnd());
          return showGrant(tx, credit);
        }),
      );
    },

    async grantTestCredits({ amountNanos }, ctx) {
      const tenant = requireTenant(ctx);
      const { accountId } = tenant;
      const scope = { accountId, retry: retryOf(ctx), response: GrantTestCreditsResponseSchema };
      const time = now();
      const of = { accountId, mode: "test", kind: "test", amountNanos, note: "" } as const;
      const credit = given(of, time);
      // The platform gives it: the caller's own role cannot touch the platform's account.
      return db.platformTransaction(tenant, (tx, audit) =>
        once(tx, { ...scope, audit }, async () => {
          await addCredit(tx, credit, time);
          const shown = await showGrant(tx, credit);
          if (shown.balance.availableNanos + shown.balance.reservedNanos > testNanosMax) {
            const message = `Cannot grant test credit: the balance would pass ${testNanosMax} nano-USDC`;
            throw failedPrecondition("TEST_CREDIT_FULL", message);
          }
          audit.record(`account:${accountId}`, `${credit.grantId}: ${amountNanos} nano-USDC`);
          return shown;
        }),
      );
    },

    async adjustCredits({ accountId, amountNanos, test, note }, ctx) {
      const tenant = requireTenant(ctx);
      const scope = { accountId: tenant.accountId, retry: retryOf(ctx) };
      const time = now();
      const mode = test ? "test" : "live";
      return db.platformTransaction(tenant, (tx, audit) =>
        once(tx, { ...scope, response: AdjustCreditsResponseSchema, audit }, async () => {
          await checkAccount(tx, accountId);
          const of = { accountId, mode, note } as const;
          if (amountNanos > 0n) {
            await addCredit(tx, given({ ...of, kind: "adjustment", amountNanos }, time), time);
          } else {
            const taking = { ...of, id: newId("ret", time), amountNanos: -amountNanos };
            await takeCredit(tx, taking, time);
          }
          audit.record(`account:${accountId}`, `${amountNanos} nano-USDC (${mode}) ${note}`);
          return { balance: await showBalance(tx, accountId, mode) };
        }),
      );
    },
  };
}

/** Credit that the platform gives. */
function given(
  of: Pick<NewCredit, "accountId" | "mode" | "kind" | "amountNanos" | "note">,
  now: Date,
): NewCredit {
  return {
    ...of,
    grantId: newId("grt", now),
    from: promotionMoney,
    priority: priorityDefault,
    expireAt: null,
    purchaseId: "",
  };
}

async function showGrant(tx: Tx, { accountId, grantId: id, mode }: NewCredit) {
  return {
    balance: await showBalance(tx, accountId, mode),
    grant: toGrant(await getGrant(tx, { accountId, id })),
  };
}

/** When a grant ends. Null: never. */
function endOf(time: Timestamp | undefined, now: Date): Date | null {
  if (time === undefined) {
    return null;
  }
  const end = timestampDate(time);
  if (end <= now) {
    throw invalidArgument([{ field: "expire_time", description: "must be in the future" }]);
  }
  return end;
}
