import { randomUUID } from "node:crypto";
import { ConnectError } from "@connectrpc/connect";
import { expect, test } from "vitest";
import { addCredit, promotionMoney } from "../src/credits/credit.ts";
import { expireNext } from "../src/credits/expiry.ts";
import { drainLeases } from "../src/credits/lease-end.ts";
import { acquireLease, topUpLease } from "../src/credits/leases.ts";
import { confirmPayment } from "../src/credits/purchase.ts";
import {
  insertPurchase,
  insertPurchaseEntry,
  lockPurchase,
} from "../src/credits/purchase-store.ts";
import { refundCredit, takeCredit } from "../src/credits/take.ts";
import type { Database } from "../src/db/database.ts";
import { newId } from "../src/lib/id.ts";
import { shardCount, shardOf } from "../src/metering/entry.ts";
import { openDatabase } from "../src/server.ts";
import { newAccountId, openBooks, patiently, projectAll, seeded, usage } from "./support/books.ts";

type Books = Awaited<ReturnType<typeof openBooks>>;

/** An account that buys, is given, uses and loses credit, and earns from the others. */
interface Account {
  accountId: string;
  purchaseId: string;
  budgetId: string;
}

const soon = 3_600_000;

test("all that moves credit does so at once, and none waits for another in a circle", {
  timeout: 120_000,
}, async () => {
  const seed = Math.floor(Math.random() * 2 ** 31);
  console.log(`credit locks: seed ${seed}`);
  const random = seeded(seed);
  const pick = (count: number) => Math.floor(random() * count);
  await using books = await openBooks();
  // Two processes: their pools know nothing of each other.
  const other = await openDatabase(books.urls);
  const accounts = [await open(books), await open(books), await open(books)];
  const end = new Date(Date.now() + soon);
  const holders = ["first", "second"];

  const works = Array.from({ length: 10 }, async (_, worker) => {
    const isFirst = worker % 2 === 0;
    const db = isFirst ? books.db : other;
    for (let round = 0; round < 15; round++) {
      const account = accounts[pick(3)] ?? accounts[0];
      const developer = accounts[pick(3)]?.accountId ?? "";
      if (account === undefined) {
        continue;
      }
      const nanos = BigInt(1 + pick(40));
      const tasks = [
        () => deposit(db, account, nanos),
        () => give(db, account, { nanos, expireAt: pick(2) === 0 ? end : null }),
        () => take(db, account, nanos),
        () => refund(db, account, nanos),
        () => db.systemTransaction((tx) => expireNext(tx, { now: end, appliedUntil: end })),
        async () => {
          const lease = await leaseOf(db, account, holders[isFirst ? 0 : 1] ?? "");
          const entry = usage({ account: account.accountId, developer, charged: String(nanos) });
          await books.journal.append([{ ...entry, lease }]);
        },
        () =>
          db.systemTransaction((tx) =>
            drainLeases(tx, { holder: holders[pick(2)] ?? "", leaseIds: null }),
          ),
        () => projectAll(db),
      ];
      const task = tasks[pick(tasks.length)];
      await patiently(async () => task?.());
    }
  });
  await Promise.all(works);
  await other.close();
  for (const holder of holders) {
    await books.db.systemTransaction((tx) => drainLeases(tx, { holder, leaseIds: null }));
  }
  await books.project();
  // What is left of used grants is found when they end.
  while (
    await books.db.systemTransaction((tx) => expireNext(tx, { now: end, appliedUntil: end }))
  ) {}

  expect(await deadlocks(books), `seed ${seed}`).toBe(0n);
  for (const { accountId, budgetId } of accounts) {
    const left = await books.sum(
      `select sum(amount_nanos - burned_nanos - returned_nanos) as sum from credit_grants
       where account_id = $1`,
      [accountId],
    );
    expect(await books.held(accountId, "consumer"), `seed ${seed}`).toBe(left);
    expect(await books.held(accountId, "lease_escrow"), `seed ${seed}`).toBe(0n);
    const leased = await books.sum(
      "select sum(spent_nanos) as sum from credit_leases where account_id = $1",
      [accountId],
    );
    const taken = await books.sum(
      "select sum(taken_nanos) as sum from budget_periods where budget_id = $1",
      [budgetId],
    );
    expect(taken, `seed ${seed}`).toBe(leased);
  }
});

async function open(books: Books): Promise<Account> {
  const now = new Date();
  const accountId = newAccountId();
  const purchaseId = newId("pur", now);
  const budgetId = newId("bud", now);
  const nobody = { accountId, actor: "", ip: "", requestId: "", action: "", audited: () => {} };
  await books.db.tenantTransaction(nobody, async (tx) => {
    const offer = { plan_id: "", price_nanos: 50n, credit_nanos: 50n, bonus_nanos: 5n };
    const purchase = { account_id: accountId, id: purchaseId, source: "test", ...offer };
    const times = { now, expireAt: new Date(now.getTime() + soon) };
    await insertPurchase(tx, purchase, times);
    await insertPurchaseEntry(tx, { accountId, purchaseId });
  });
  await books.superuser.query(
    `insert into budgets (account_id, id, scope, period, mode, limit_nanos)
     values ($1, $2, 'account', 'day', 'live', 1000000)`,
    [accountId, budgetId],
  );
  return { accountId, purchaseId, budgetId };
}

async function deposit(db: Database, { purchaseId }: Account, nanos: bigint): Promise<void> {
  const now = new Date();
  const payment = { source: "test", eventId: randomUUID(), purchaseId, amountNanos: nanos };
  await db.systemTransaction((tx) => confirmPayment(tx, { ...payment, at: now, detail: "" }, now));
}

async function give(
  db: Database,
  { accountId }: Account,
  { nanos, expireAt }: { nanos: bigint; expireAt: Date | null },
): Promise<void> {
  const now = new Date();
  const of = { accountId, mode: "live", kind: "promotion", from: promotionMoney } as const;
  const rest = { priority: 50, expireAt, purchaseId: "", note: "" };
  const grantId = newId("grt", now);
  await db.systemTransaction((tx) =>
    addCredit(tx, { ...of, ...rest, grantId, amountNanos: nanos }, now),
  );
}

async function take(db: Database, { accountId }: Account, nanos: bigint): Promise<void> {
  const now = new Date();
  const taking = { accountId, mode: "live", id: newId("ret", now), amountNanos: nanos } as const;
  await allow(db.systemTransaction((tx) => takeCredit(tx, { ...taking, note: "" }, now)));
}

async function refund(db: Database, account: Account, nanos: bigint): Promise<void> {
  const now = new Date();
  const { accountId, purchaseId } = account;
  const taking = { accountId, mode: "live", id: newId("ret", now), amountNanos: nanos } as const;
  await allow(
    db.systemTransaction(async (tx) => {
      await lockPurchase(tx, purchaseId);
      await refundCredit(tx, { ...taking, purchaseId, note: "" }, now);
    }),
  );
}

/** There may be too little to take. */
async function allow(work: Promise<void>): Promise<void> {
  await work.catch((error: unknown) => {
    if (!(error instanceof ConnectError)) {
      throw error;
    }
  });
}

/** A lease that is topped up at once. Null: there is no credit for one. */
async function leaseOf(
  db: Database,
  { accountId, budgetId }: Account,
  holder: string,
): Promise<string | null> {
  const wanted = { accountId, mode: "live", leastNanos: 1n, wantNanos: 60n } as const;
  const shard = shardOf(accountId, shardCount);
  const opened = await db.systemTransaction((tx) =>
    acquireLease(tx, { ...wanted, holder, shard, budgetIds: [budgetId] }, new Date()),
  );
  if (!("lease" in opened)) {
    return null;
  }
  const leaseId = opened.lease.id;
  await db.systemTransaction((tx) => topUpLease(tx, { ...wanted, leaseId, count: 1 }, new Date()));
  return leaseId;
}

/** How often the server had to break a deadlock in this database: a retry hides it. */
async function deadlocks(books: Books): Promise<bigint> {
  await books.superuser.query("select pg_stat_force_next_flush()").catch(() => {});
  await books.superuser.query("select pg_stat_clear_snapshot()");
  return books.sum(
    "select deadlocks as sum from pg_stat_database where datname = current_database()",
  );
}
