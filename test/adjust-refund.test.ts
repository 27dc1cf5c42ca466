import { Code } from "@connectrpc/connect";
import { expect, test as plain } from "vitest";
import {
  CreditService,
  GrantKind,
  TransactionType,
} from "../gen/callora/credits/v1/credit_service_pb.ts";
import { SettlementService } from "../gen/callora/settlement/v1/settlement_service_pb.ts";
import { addCredits, promotionMoney } from "../src/credits/credit.ts";
import { acquireLease } from "../src/credits/leases.ts";
import { takeCredit } from "../src/credits/take.ts";
import { newId } from "../src/lib/id.ts";
import { shardCount, shardOf } from "../src/metering/entry.ts";
import { type startTestApp, until } from "./support/app.ts";
import { newAccountId, openBooks } from "./support/books.ts";
import { buyCredit } from "./support/payments.ts";
import { newPerson } from "./support/people.ts";
import { test } from "./support/test.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;

const usdc = 1_000_000_000n;

test("credit is given and taken, each with its reason in the history", async ({ app }) => {
  const [me, admin] = [await newPerson(app.db), await newPerson(app.db, "admin")];
  const { accountId } = me;
  const adjust = (amountNanos: bigint, note: string) =>
    app.client(CreditService, admin.token).adjustCredits({ accountId, amountNanos, note });

  await adjust(100n, "a bad day");
  const { balance } = await adjust(-30n, "too good a day");

  expect(balance).toMatchObject({ availableNanos: 70n, grantedNanos: 100n, promotionalNanos: 70n });
  const credits = app.client(CreditService, me.token);
  const { transactions } = await credits.listTransactions({ type: TransactionType.ADJUSTMENT });
  expect(transactions).toMatchObject([
    { amountNanos: -30n, balanceNanos: 70n, description: "too good a day", grantId: "" },
    { amountNanos: 100n, balanceNanos: 100n, description: "a bad day" },
  ]);
  const { grants } = await credits.listGrants({});
  expect(grants).toMatchObject([
    { kind: GrantKind.ADJUSTMENT, amountNanos: 100n, returnedNanos: 30n, burnedNanos: 0n },
  ]);
  expect(transactions[1]?.grantId).toBe(grants[0]?.id);
  expect(await conserved(app)).toBe(true);
});

test("no more is taken than is available: what is set aside is not", async ({ app }) => {
  const [me, admin] = [await newPerson(app.db), await newPerson(app.db, "admin")];
  await app.grant(me.accountId, 100n);
  await setAside(app, me.accountId, 60n);
  const take = (amountNanos: bigint) =>
    app
      .client(CreditService, admin.token)
      .adjustCredits({ accountId: me.accountId, amountNanos, note: "x" });

  const outcome = take(-41n);

  await expect(outcome).rejects.toMatchObject({ code: Code.FailedPrecondition });
  await expect(outcome).rejects.toMatchObject(withReason("CREDIT_RESERVED"));
  expect((await take(-40n)).balance).toMatchObject({ availableNanos: 0n, reservedNanos: 60n });
});

test("what is taken of bought credit is the platform's, and no expense is made up", async ({
  app,
}) => {
  const [me, admin] = [await newPerson(app.db), await newPerson(app.db, "admin")];
  await buyCredit(app, me, { amountNanos: usdc });
  await app.grant(me.accountId, 5n);
  const client = app.client(CreditService, admin.token);

  await client.adjustCredits({ accountId: me.accountId, amountNanos: -usdc, note: "fraud" });

  const { grants } = await app.client(CreditService, me.token).listGrants({ includeUsed: true });
  expect(grants.map(({ kind, returnedNanos }) => [kind, returnedNanos])).toEqual([
    [GrantKind.PROMOTION, 5n],
    [GrantKind.PURCHASE, usdc - 5n],
  ]);
  expect(await conserved(app)).toBe(true);
});

plain("credit is taken from as many grants as there are", async () => {
  await using books = await openBooks();
  const [accountId, now] = [newAccountId(), new Date()];
  const mode = "live" as const;
  const grants = Array.from({ length: 2_100 }, () => ({
    ...{ accountId, mode, grantId: newId("grt", now), kind: "promotion" as const, amountNanos: 1n },
    ...{ from: promotionMoney, priority: 50, expireAt: null, purchaseId: "", note: "" },
  }));
  for (let at = 0; at < grants.length; at += 300) {
    await books.db.systemTransaction((tx) => addCredits(tx, grants.slice(at, at + 300), now));
  }
  const taking = { accountId, mode, id: newId("ret", now), amountNanos: 2_099n, note: "x" };

  await books.db.systemTransaction((tx) => takeCredit(tx, taking, now));

  const returned = "select sum(returned_nanos) as sum from credit_grants where account_id = $1";
  expect(await books.sum(returned, [accountId])).toBe(2_099n);
  expect(await books.held(promotionMoney.accountId, "promotion_expense")).toBe(-1n);
  expect(await books.held(promotionMoney.accountId, "treasury_equity")).toBe(0n);
});

test("bought credit is taken back to be paid back, and what came with it ends", async ({ app }) => {
  const [me, admin] = [await newPerson(app.db), await newPerson(app.db, "admin")];
  const purchaseId = await buyCredit(app, me, { planId: "pro" });
  const refund = (amountNanos: bigint) =>
    app
      .client(CreditService, admin.token)
      .refundPurchase({ purchaseId, amountNanos, note: "sorry" });

  const { purchase, balance } = await refund(30n * usdc);

  expect(purchase).toMatchObject({ refundedNanos: 30n * usdc, paidNanos: 100n * usdc });
  expect(balance).toMatchObject({ availableNanos: 75n * usdc });
  const credits = app.client(CreditService, me.token);
  await until(async () => (await credits.getBalance({})).balance?.availableNanos === 70n * usdc);
  const { transactions } = await credits.listTransactions({ type: TransactionType.REFUND });
  expect(transactions).toMatchObject([
    { amountNanos: -30n * usdc, description: "sorry", balanceNanos: 75n * usdc },
  ]);
  await expect(refund(70n * usdc + 100n)).rejects.toMatchObject(withReason("CREDIT_USED"));
  await setAside(app, me.accountId, 1n);
  await expect(refund(70n * usdc)).rejects.toMatchObject(withReason("CREDIT_RESERVED"));
  await refund(70n * usdc - 100n);
  expect((await credits.getBalance({})).balance).toMatchObject({ availableNanos: 99n });
});

test("what cannot be paid back on the chain is not taken back", async ({ app }) => {
  const [me, admin] = [await newPerson(app.db), await newPerson(app.db, "admin")];
  const purchaseId = await buyCredit(app, me, { amountNanos: usdc });

  const outcome = app
    .client(CreditService, admin.token)
    .refundPurchase({ purchaseId, amountNanos: 150n, note: "x" });

  await expect(outcome).rejects.toMatchObject({ code: Code.InvalidArgument });
  await expect(outcome).rejects.toThrow("amount_nanos");
  const { balance } = await app.client(CreditService, me.token).getBalance({});
  expect(balance).toMatchObject({ availableNanos: usdc });
});

test("a purchase that is not there cannot be taken back", async ({ app }) => {
  const admin = await newPerson(app.db, "admin");
  const purchaseId = `pur_${"0".repeat(26)}`;

  const outcome = app
    .client(CreditService, admin.token)
    .refundPurchase({ purchaseId, amountNanos: 1n, note: "x" });

  await expect(outcome).rejects.toMatchObject({ code: Code.NotFound });
});

async function setAside(app: App, accountId: string, nanos: bigint): Promise<void> {
  const wanted = {
    accountId,
    mode: "live",
    holder: "test",
    wantNanos: nanos,
    leastNanos: nanos,
    shard: shardOf(accountId, shardCount),
    expireAt: new Date(Date.now() + 600_000),
  } as const;
  await app.db.systemTransaction((tx) => acquireLease(tx, wanted, new Date()));
}

/** Whether the ledger's own sums agree. What the tests paid past the chain is not on it. */
async function conserved(app: App): Promise<boolean> {
  const admin = await newPerson(app.db, "admin");
  const { checks } = await app.client(SettlementService, admin.token).checkConservation({});
  return checks.every(({ ok, name }) => ok || name.startsWith("treasury in the ledger"));
}

function withReason(reason: string) {
  return {
    details: expect.arrayContaining([
      expect.objectContaining({ debug: expect.objectContaining({ reason }) }),
    ]),
  };
}
