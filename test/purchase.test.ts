import { Code } from "@connectrpc/connect";
import { expect, test as plain } from "vitest";
import {
  CreditService,
  GrantKind,
  type Purchase,
  PurchaseState,
  TransactionType,
} from "../gen/callora/credits/v1/credit_service_pb.ts";
import { Mode } from "../gen/callora/keys/v1/key_pb.ts";
import { KeyService } from "../gen/callora/keys/v1/key_service_pb.ts";
import { confirmPayment } from "../src/credits/purchase.ts";
import { insertPurchase, insertPurchaseEntry } from "../src/credits/purchase-store.ts";
import { newId } from "../src/lib/id.ts";
import { insertMessages } from "../src/metering/projections.ts";
import { openDatabase } from "../src/server.ts";
import { type DepositDeps, takeDeposits } from "../src/settlement/deposits.ts";
import { must, until } from "./support/app.ts";
import { newAccountId, openBooksAndNetwork, usage } from "./support/books.ts";
import { deposit, newPayer } from "./support/payers.ts";
import { newPerson } from "./support/people.ts";
import { test } from "./support/test.ts";

type Books = Awaited<ReturnType<typeof openBooksAndNetwork>>;

const usdc = 1_000_000_000n;
const now = () => new Date();

test("the plans on sale are shown to everybody", async ({ app }) => {
  const { plans } = await app.client(CreditService).listPlans({});

  expect(plans.map(({ id, priceNanos }) => [id, priceNanos])).toEqual([
    ["starter", 10n * usdc],
    ["pro", 100n * usdc],
    ["enterprise", 1_000n * usdc],
  ]);
});

test("a plan is bought by a deposit: its credit and its bonus are granted once", async ({
  app,
}) => {
  const me = await newPerson(app.db);
  const credits = app.client(CreditService, me.token);
  const begun = must((await credits.purchaseCredits({ planId: "pro" })).purchase);
  expect(begun).toMatchObject({
    state: PurchaseState.PENDING,
    source: "stellar",
    priceNanos: 100n * usdc,
    bonusNanos: 5n * usdc,
    deposit: {
      address: app.network.treasury.publicKey(),
      memo: begun.id.slice("pur_".length),
      amount: "100.0000000",
      assetCode: "USDC",
    },
  });
  const payer = await newPayer(app);

  await deposit(app.network, payer, must(begun.deposit));

  const purchase = await confirmed(() => credits.getPurchase({ purchaseId: begun.id }));
  expect(purchase).toMatchObject({ paidNanos: 100n * usdc, refundedNanos: 0n });
  expect((await credits.getBalance({})).balance).toMatchObject({
    availableNanos: 105n * usdc,
    grantedNanos: 105n * usdc,
    promotionalNanos: 5n * usdc,
  });
  // What the platform added burns first.
  const { grants } = await credits.listGrants({});
  expect(grants).toMatchObject([
    { kind: GrantKind.PROMOTION, amountNanos: 5n * usdc, purchaseId: begun.id },
    { kind: GrantKind.PURCHASE, amountNanos: 100n * usdc, id: purchase.grantId },
  ]);
  const { transactions } = await credits.listTransactions({ type: TransactionType.PURCHASE });
  expect(transactions).toMatchObject([{ amountNanos: 100n * usdc, grantId: purchase.grantId }]);
});

test("nobody else sees a purchase", async ({ app }) => {
  const [me, other] = [await newPerson(app.db), await newPerson(app.db)];
  const { purchase } = await app
    .client(CreditService, me.token)
    .purchaseCredits({ amountNanos: 5n * usdc });

  const theirs = app
    .client(CreditService, other.token)
    .getPurchase({ purchaseId: must(purchase).id });

  await expect(theirs).rejects.toMatchObject({ code: Code.NotFound });
});

test.for([
  { request: { planId: "none" }, reason: "PLAN_UNKNOWN" },
  { request: { amountNanos: 5n * usdc, source: "card" }, reason: "SOURCE_UNKNOWN" },
  { request: { amountNanos: 5n * usdc + 1n }, reason: "REQUEST_INVALID" },
  { request: { amountNanos: usdc, planId: "pro" }, reason: undefined },
  { request: {}, reason: undefined },
])("a purchase of $request is refused", async ({ request, reason }, { app }) => {
  const me = await newPerson(app.db);

  const outcome = app.client(CreditService, me.token).purchaseCredits(request);

  await expect(outcome).rejects.toMatchObject({ code: Code.InvalidArgument });
  if (reason !== undefined) {
    await expect(outcome).rejects.toMatchObject(withReason(reason));
  }
});

test("a test key buys nothing", async ({ app }) => {
  const me = await newPerson(app.db);
  const api = await app.api(await newPerson(app.db, "developer"));
  const keys = app.client(KeyService, me.token);
  const { secret } = await keys.createKey({ apiId: api.id, mode: Mode.TEST });

  const outcome = app.client(CreditService, secret).purchaseCredits({ planId: "starter" });

  await expect(outcome).rejects.toMatchObject(withReason("TEST_KEY"));
});

plain("another amount is granted as it is, and further deposits add", async () => {
  await using books = await openBooksAndNetwork();
  const { accountId, memo } = await begin(books, { priceNanos: 10n * usdc, bonusNanos: usdc });
  const payer = await newPayer(books);

  await deposit(books.network, payer, { memo, amount: "9.9999999" });
  await takeAll(books);
  expect(await books.held(accountId, "consumer")).toBe(10n * usdc - 100n);
  await deposit(books.network, payer, { memo, amount: "10" });
  await takeAll(books);

  expect(await books.held(accountId, "consumer")).toBe(20n * usdc - 100n);
  expect(await kinds(books, accountId)).toEqual(["purchase", "purchase"]);
  expect((await books.conservation()).checks.filter(({ ok }) => !ok)).toEqual([]);
});

plain("what is bought repays what is owed first, and what comes with it the rest", async () => {
  await using books = await openBooksAndNetwork();
  const purchase = { priceNanos: 10n * usdc, bonusNanos: usdc };
  const { accountId: account, memo } = await begin(books, purchase);
  const charged = String((21n * usdc) / 2n);
  await books.journal.append([usage({ account, developer: newAccountId(), charged })]);
  await books.project();

  await deposit(books.network, await newPayer(books), { memo, amount: "10" });
  await takeAll(books);

  expect(await books.held(account, "consumer_receivable")).toBe(0n);
  expect(await books.held(account, "consumer")).toBe(usdc / 2n);
  const { rows } = await books.superuser.query(
    "select kind, burned_nanos, state from credit_grants where account_id = $1 order by kind desc",
    [account],
  );
  expect(rows).toEqual([
    { kind: "purchase", burned_nanos: String(10n * usdc), state: "closed" },
    { kind: "promotion", burned_nanos: String(usdc / 2n), state: "open" },
  ]);
  expect(await unbalanced(books)).toEqual([]);
});

plain("what is paid too late is granted without what the platform adds", async () => {
  await using books = await openBooksAndNetwork();
  const expireAt = new Date(Date.now() - 60_000);
  const { accountId, memo } = await begin(books, {
    priceNanos: 10n * usdc,
    bonusNanos: usdc,
    expireAt,
  });

  await deposit(books.network, await newPayer(books), { memo, amount: "10" });
  await takeAll(books);

  expect(await books.held(accountId, "consumer")).toBe(10n * usdc);
});

plain("a deposit that names nothing is the treasury's, and is told of", async () => {
  await using books = await openBooksAndNetwork();
  const payer = await newPayer(books);
  const before = await books.held(platform, "treasury_equity");
  const told: string[] = [];

  await deposit(books.network, payer, { memo: "", amount: "1" });
  await deposit(books.network, payer, { memo: "hello", amount: "2" });
  await deposit(books.network, payer, { memo: "0".repeat(26), amount: "3" });
  await deposit(books.network, payer, { memo: "", amount: "4", native: true });
  expect(await unbalanced(books)).toEqual([]);
  await takeAll(books, { onUnmatched: ({ detail }) => told.push(detail) });

  expect(told).toHaveLength(3);
  expect(told[0]).toContain(payer.publicKey());
  expect(await books.held(platform, "treasury_equity")).toBe(before + 6n * usdc);
  expect(await unbalanced(books)).toEqual([]);
});

plain("five processes that look at the same deposits grant each once", async () => {
  await using books = await openBooksAndNetwork();
  const payer = await newPayer(books);
  const purchases = [];
  for (let index = 0; index < 4; index++) {
    const purchase = await begin(books, { priceNanos: 10n * usdc });
    purchases.push(purchase);
    await deposit(books.network, payer, { memo: purchase.memo, amount: "10" });
  }
  const others = await Promise.all([1, 2, 3, 4].map(() => openDatabase(books.urls)));
  try {
    await Promise.all([books.db, ...others].map((db) => takeAll(books, { db })));
  } finally {
    await Promise.all(others.map((db) => db.close()));
  }

  for (const { accountId } of purchases) {
    expect(await books.held(accountId, "consumer")).toBe(10n * usdc);
  }
  expect(await books.sum("select count(*) as sum from payment_events")).toBe(4n);
  const told = await books.superuser.query(
    "select account_id, payload->>'purchaseId' as id from outbox where topic = 'credits.purchase_paid'",
  );
  const ids = purchases.map(({ accountId: account_id, purchaseId: id }) => ({ account_id, id }));
  expect(told.rows).toHaveLength(4);
  expect(told.rows).toEqual(expect.arrayContaining(ids));
  expect(await unbalanced(books)).toEqual([]);
});

plain(
  "a deposit is taken again after a failure in the middle of it, and is granted once",
  async () => {
    await using books = await openBooksAndNetwork();
    const { accountId, memo } = await begin(books, { priceNanos: 10n * usdc });
    await deposit(books.network, await newPayer(books), { memo, amount: "10" });
    await books.superuser.query(
      "alter table credit_purchases add constraint broken check (state = 'pending')",
    );
    await expect(takeAll(books)).rejects.toThrow();
    expect(await books.held(accountId, "consumer")).toBe(0n);
    await books.superuser.query("alter table credit_purchases drop constraint broken");

    await takeAll(books);
    await takeAll(books);

    expect(await books.held(accountId, "consumer")).toBe(10n * usdc);
  },
);

plain("a payment that is confirmed again is seen, whoever says so", async () => {
  await using books = await openBooksAndNetwork();
  const { accountId, memo } = await begin(books, { priceNanos: usdc });
  const payment = {
    source: "stellar",
    eventId: "1",
    purchaseId: `pur_${memo}`,
    amountNanos: usdc,
    at: now(),
    detail: "",
  };
  const confirm = (changed: Partial<typeof payment> = {}) =>
    books.db.systemTransaction((tx) => confirmPayment(tx, { ...payment, ...changed }, now()));

  expect(await confirm()).toMatchObject({ state: "granted" });
  expect(await confirm()).toEqual({ state: "seen" });
  // Another source cannot pay for it.
  expect(await confirm({ source: "card" })).toEqual({ state: "unmatched" });

  expect(await books.held(accountId, "consumer")).toBe(usdc);
});

const platform = `acc_${"0".repeat(26)}`;

/** A purchase of nobody's account. */
async function begin(
  books: Books,
  {
    priceNanos,
    bonusNanos = 0n,
    expireAt = new Date(Date.now() + 60_000),
  }: { priceNanos: bigint; bonusNanos?: bigint; expireAt?: Date },
) {
  const [accountId, purchaseId] = [newAccountId(), newId("pur", now())];
  const nobody = { accountId, actor: "", ip: "", requestId: "", action: "", audited: () => {} };
  await books.db.tenantTransaction(nobody, async (tx) => {
    await insertPurchase(
      tx,
      {
        account_id: accountId,
        id: purchaseId,
        source: "stellar",
        plan_id: "",
        price_nanos: priceNanos,
        credit_nanos: priceNanos,
        bonus_nanos: bonusNanos,
      },
      { now: now(), expireAt },
    );
    await insertPurchaseEntry(tx, { accountId, purchaseId });
  });
  return { accountId, purchaseId, memo: purchaseId.slice("pur_".length) };
}

const tell: DepositDeps["tell"] = (tx, told) => insertMessages(tx, [told], 0);

async function takeAll(books: Books, options: Partial<DepositDeps> = {}): Promise<void> {
  const { db, network } = books;
  while (await takeDeposits({ db, network, now, tell, onUnmatched: () => {}, ...options })) {}
}

async function kinds(books: Books, accountId: string): Promise<string[]> {
  const { rows } = await books.superuser.query<{ kind: string }>(
    "select kind from credit_grants where account_id = $1 order by id",
    [accountId],
  );
  return rows.map(({ kind }) => kind);
}

async function unbalanced(books: Books) {
  return (await books.conservation()).checks.filter(({ ok }) => !ok);
}

async function confirmed(get: () => Promise<{ purchase?: Purchase | undefined }>) {
  await until(async () => (await get()).purchase?.state === PurchaseState.CONFIRMED);
  return must((await get()).purchase);
}

function withReason(reason: string) {
  return {
    details: expect.arrayContaining([
      expect.objectContaining({ debug: expect.objectContaining({ reason }) }),
    ]),
  };
}
