import { Code } from "@connectrpc/connect";
import { expect } from "vitest";
import {
  CreditService,
  PurchaseState,
  TransactionType,
} from "../gen/callora/credits/v1/credit_service_pb.ts";
import { DepositService } from "../gen/callora/credits/v1/deposit_service_pb.ts";
import { SettlementService } from "../gen/callora/settlement/v1/settlement_service_pb.ts";
import { newId } from "../src/lib/id.ts";
import { must, type startTestApp, until } from "./support/app.ts";
import { deposit, newPayer } from "./support/payers.ts";
import { leaveDeposit } from "./support/payments.ts";
import { newPerson } from "./support/people.ts";
import { asSuperuser } from "./support/superuser.ts";
import { test } from "./support/test.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;

const usdc = 1_000_000_000n;
const platform = `acc_${"0".repeat(26)}`;

/** Somebody who buys, and an admin. */
async function meet(app: App) {
  const [me, admin] = [await newPerson(app.db), await newPerson(app.db, "admin")];
  const deposits = app.client(DepositService, admin.token);
  const credits = app.client(CreditService, me.token);
  const { accountId } = me;
  return {
    me,
    admin,
    credits,
    deposits,
    assign: (depositId: string, more: { accountId?: string; purchaseId?: string } = {}) =>
      deposits.assignDeposit({ depositId, accountId, note: "a receipt", ...more }),
    available: async () => must((await credits.getBalance({})).balance).availableNanos,
    unmatched: async (includeAssigned = false) =>
      (await deposits.listUnmatchedDeposits({ pageSize: 250, includeAssigned })).deposits,
  };
}

/** What the platform keeps of live money of a kind, credits less debits. */
async function platformHolds(app: App, kind: string): Promise<bigint> {
  return asSuperuser(app, async (client) => {
    const { rows } = await client.query(
      `select credits_nanos - debits_nanos as held from ledger_accounts
       where account_id = $1 and kind = $2 and mode = 'live'`,
      [platform, kind],
    );
    return BigInt(rows[0]?.held ?? 0);
  });
}

async function failedChecks(app: App): Promise<string[]> {
  const admin = await newPerson(app.db, "admin");
  const { checks } = await app.client(SettlementService, admin.token).checkConservation({});
  return checks.filter(({ ok }) => !ok).map(({ name }) => name);
}

// Before those whose deposits are not on the chain.
test("a deposit without a memo is listed, assigned, spent and refunded, and the books are even", async ({
  app,
}) => {
  const { me, admin, assign, credits, unmatched } = await meet(app);
  const payer = await newPayer(app);
  await deposit(app.network, payer, { memo: "hello", amount: "7" });
  const taken = () =>
    asSuperuser(app, (client) => client.query("select from payment_events where account_id = ''"));
  await until(async () => (await taken()).rowCount === 1);
  const found = must((await unmatched())[0]);
  expect(found).toMatchObject({ source: "stellar", amountNanos: 7n * usdc, accountId: "" });
  expect(found.detail).toContain(payer.publicKey());
  expect(found.detail).toContain('memo "hello"');
  const chain = await platformHolds(app, "chain");
  const equity = await platformHolds(app, "treasury_equity");

  const { deposit: assigned, purchase, balance } = await assign(found.id);

  const bought = must(purchase);
  expect(assigned).toMatchObject({ accountId: me.accountId, purchaseId: bought.id });
  expect(bought).toMatchObject({ state: PurchaseState.CONFIRMED, paidNanos: 7n * usdc });
  expect(balance).toMatchObject({ availableNanos: 7n * usdc, promotionalNanos: 0n });
  expect(await platformHolds(app, "chain")).toBe(chain);
  expect(await platformHolds(app, "treasury_equity")).toBe(equity - 7n * usdc);
  const { transactions } = await credits.listTransactions({});
  expect(transactions).toMatchObject([
    { type: TransactionType.PURCHASE, amountNanos: 7n * usdc, grantId: bought.grantId },
  ]);
  expect(await unmatched()).toEqual([]);
  expect((await unmatched(true)).map(({ id }) => id)).toEqual([found.id]);
  const refund = { purchaseId: bought.id, amountNanos: 7n * usdc, note: "back" };
  await app.client(CreditService, admin.token).refundPurchase(refund);
  expect(await failedChecks(app)).toEqual([]);
});

test("a deposit is credited once, however many assign it at the same moment", async ({ app }) => {
  const { me, assign, available } = await meet(app);
  const depositId = await leaveDeposit(app, 3n * usdc);

  const answers = await Promise.all(Array.from({ length: 6 }, () => assign(depositId)));
  await assign(depositId);

  expect(await available()).toBe(3n * usdc);
  expect(new Set(answers.map(({ purchase }) => purchase?.id)).size).toBe(1);
  const told = await asSuperuser(app, (client) =>
    client.query(
      `select (select count(*)::int from outbox
          where account_id = $1 and topic = 'credits.purchase_paid') as told,
        (select count(*)::int from audit_logs where resource = $2 and outcome = 'done') as noted`,
      [me.accountId, `deposit:${depositId}`],
    ),
  );
  expect(told.rows[0]).toEqual({ told: 1, noted: 1 });
});

test("what was assigned is nobody else's, nor another purchase's", async ({ app }) => {
  const { assign, credits, available } = await meet(app);
  const other = await newPerson(app.db);
  const depositId = await leaveDeposit(app, usdc);
  await assign(depositId);
  const { purchase } = await credits.purchaseCredits({ amountNanos: usdc });

  for (const otherwise of [{ accountId: other.accountId }, { purchaseId: must(purchase).id }]) {
    await expect(assign(depositId, otherwise)).rejects.toMatchObject(
      withReason("DEPOSIT_ASSIGNED"),
    );
  }

  expect(await available()).toBe(usdc);
});

test("a deposit with a wrong memo pays for its purchase, with what comes with that in time", async ({
  app,
}) => {
  const { assign, credits, available } = await meet(app);
  const buy = async () => must((await credits.purchaseCredits({ planId: "pro" })).purchase).id;
  const [inTime, late] = [await buy(), await buy()];
  const tomorrow = new Date(Date.now() + 25 * 60 * 60 * 1_000);

  await assign(await leaveDeposit(app, 100n * usdc), { purchaseId: inTime });
  expect(await available()).toBe(105n * usdc);
  await assign(await leaveDeposit(app, 100n * usdc, tomorrow), { purchaseId: late });
  expect(await available()).toBe(205n * usdc);

  const { purchase } = await credits.getPurchase({ purchaseId: inTime });
  expect(purchase).toMatchObject({ state: PurchaseState.CONFIRMED, paidNanos: 100n * usdc });
});

test("it pays what is owed first", async ({ app }) => {
  const { me, assign, credits } = await meet(app);
  await asSuperuser(app, (client) =>
    client.query(
      `insert into ledger_accounts (account_id, kind, mode, debits_nanos, credits_nanos)
       values ($1, 'consumer_receivable', 'live', 400, 0), ($1, 'clearing', 'live', 0, 400)`,
      [me.accountId],
    ),
  );

  await assign(await leaveDeposit(app, usdc));

  expect((await credits.getBalance({})).balance).toMatchObject({
    availableNanos: usdc - 400n,
    owedNanos: 0n,
  });
});

test("what there is not cannot be assigned, and a matched payment is not listed", async ({
  app,
}) => {
  const { assign, credits, unmatched } = await meet(app);
  const stranger = app.client(CreditService, (await newPerson(app.db)).token);
  const theirs = must((await stranger.purchaseCredits({ planId: "pro" })).purchase).id;
  const [depositId, now] = [await leaveDeposit(app), new Date()];
  const own = must((await credits.purchaseCredits({ amountNanos: usdc })).purchase);
  await deposit(app.network, await newPayer(app), must(own.deposit));
  await until(
    async () => (await credits.getPurchase({ purchaseId: own.id })).purchase?.paidNanos === usdc,
  );
  const matched = await asSuperuser(app, (client) =>
    client.query("select id from payment_events where purchase_id = $1", [own.id]),
  );

  const outcomes = await Promise.allSettled([
    assign(newId("dep", now)),
    assign(matched.rows[0].id),
    assign(depositId, { accountId: newId("acc", now) }),
    assign(depositId, { purchaseId: newId("pur", now) }),
    assign(depositId, { purchaseId: theirs }),
  ]);

  expect(outcomes).toMatchObject(
    Array(5).fill({ status: "rejected", reason: { code: Code.NotFound } }),
  );
  const listed = (await unmatched(true)).map(({ id }) => id);
  expect(listed).toContain(depositId);
  expect(listed).not.toContain(matched.rows[0].id);
});

test("deposits are listed page by page over REST, newest first", async ({ app }) => {
  const { admin, unmatched } = await meet(app);
  for (let index = 0; index < 3; index++) {
    await leaveDeposit(app);
  }
  const headers = { authorization: `Bearer ${admin.token}` };
  const ids: string[] = [];
  let token = "";
  do {
    const query = new URLSearchParams({ pageSize: "2", pageToken: token });
    const response = await fetch(`${app.url}/api/admin/credits/deposits?${query}`, { headers });
    const page = (await response.json()) as { deposits: { id: string }[]; nextPageToken: string };
    ids.push(...page.deposits.map(({ id }) => id));
    token = page.nextPageToken;
  } while (token !== "");

  expect(ids).toEqual((await unmatched()).map(({ id }) => id));
  expect(ids).toEqual(ids.toSorted().reverse());
  expect(ids.length).toBeGreaterThanOrEqual(3);
});

function withReason(reason: string) {
  return {
    details: expect.arrayContaining([
      expect.objectContaining({ debug: expect.objectContaining({ reason }) }),
    ]),
  };
}
