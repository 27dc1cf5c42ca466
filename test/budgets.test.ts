import { randomUUID } from "node:crypto";
import { Code, ConnectError } from "@connectrpc/connect";
import { describe, expect, test as plain } from "vitest";
import {
  BudgetPeriod,
  BudgetScope,
  BudgetService,
} from "../gen/callora/credits/v1/budget_service_pb.ts";
import { insertMember } from "../src/accounts/member-store.ts";
import { budgetKey, budgetTopic } from "../src/credits/budget-memory.ts";
import { createLeaseBook, type LeaseBook, type Payer } from "../src/credits/purse.ts";
import { newId } from "../src/lib/id.ts";
import { openDatabase } from "../src/server.ts";
import { must, openTestTrust } from "./support/app.ts";
import { newAccountId, openBooks, usage } from "./support/books.ts";
import { test } from "./support/test.ts";

const price = 1_000n;

type Books = Awaited<ReturnType<typeof openBooks>>;

/** A process with a book, whose clock is set by hand. */
async function openProcess(books: Books) {
  const clock = { ms: 0 };
  const db = await openDatabase(books.urls);
  const trust = await openTestTrust(db, books.urls);
  const book = createLeaseBook({
    db,
    trust,
    holder: randomUUID(),
    shardOf: () => 0,
    nowMs: () => clock.ms,
    onError: () => {},
  });
  return {
    book,
    clock,
    trust,
    db,
    async [Symbol.asyncDispose]() {
      await trust.close();
      await db.close();
    },
  };
}

type Process = Awaited<ReturnType<typeof openProcess>>;

interface Budget {
  scope: "account" | "member" | "key";
  subject?: string;
  period?: "total" | "day" | "month";
  limit: bigint;
}

/** Set a budget as the service does: what processes remember is forgotten when it is there. */
async function put({ superuser }: Books, { db, trust }: Process, account: string, budget: Budget) {
  const { scope, subject = "", period = "day", limit } = budget;
  const { rows } = await superuser.query(
    `insert into budgets (account_id, id, scope, subject_id, period, mode, limit_nanos)
     values ($1, $2, $3, $4, $5, 'live', $6)
     on conflict (account_id, scope, subject_id, period, mode) where deleted_at is null
     do update set limit_nanos = excluded.limit_nanos returning id`,
    [account, newId("bud", new Date()), scope, subject, period, limit.toString()],
  );
  const key = budgetKey(account, "live");
  await trust.settled(await db.systemTransaction((tx) => trust.announce(tx, budgetTopic, [key])));
  return rows[0].id as string;
}

function payerOf(accountId: string, more: Partial<Payer> = {}): Payer {
  return { accountId, mode: "live", familyId: "key_a", createdBy: "usr_a", ...more };
}

async function ask(book: LeaseBook, payer: Payer, nanos = price) {
  const purse = await book.purseOf(payer);
  return purse.take(nanos) ?? (await purse.ask(nanos));
}

/** Call so often at once. Returns the leases of those that were served. */
async function callAll(books: readonly LeaseBook[], payer: Payer, count: number) {
  const outcomes = await Promise.all(
    Array.from({ length: count }, (_, index) => ask(must(books[index % books.length]), payer)),
  );
  return outcomes.flatMap((one) => ("availableNanos" in one ? [] : [one]));
}

const takenOf = ({ sum }: Books, budgetId: string) =>
  sum("select sum(taken_nanos) as sum from budget_periods where budget_id = $1", [budgetId]);

describe("a budget", () => {
  plain(
    "is kept to the unit by two processes, and what calls did not cost comes back",
    async () => {
      await using books = await openBooks();
      await using first = await openProcess(books);
      await using second = await openProcess(books);
      const account = newAccountId(0);
      await books.grant(account, 100n * price);
      const budgetId = await put(books, first, account, { scope: "account", limit: 10n * price });

      const leases = await callAll([first.book, second.book], payerOf(account), 60);
      expect(leases).toHaveLength(10);
      expect(await ask(first.book, payerOf(account))).toMatchObject({
        limitedBy: "budget",
        budgetId,
        availableNanos: 0n,
        reservedNanos: 10n * price,
      });

      const developer = newAccountId(0);
      for (const [index, { id, release }] of leases.entries()) {
        const charged = index % 2 === 0 ? price : 0n;
        await books.journal.append([
          usage({ account, developer, charged: `${charged}`, lease: id }),
        ]);
        release.call(leases[index], price - charged);
      }
      await first.book.stop();
      await second.book.stop();
      await books.project();

      expect(await takenOf(books, budgetId)).toBe(5n * price);
      expect(await books.held(account, "consumer")).toBe(95n * price);
    },
  );

  plain("of a key or a member binds its own calls, and that of the account all", async () => {
    await using books = await openBooks();
    await using process = await openProcess(books);
    const account = newAccountId(0);
    await books.grant(account, 100n * price);
    await put(books, process, account, { scope: "key", subject: "key_a", limit: 2n * price });
    await put(books, process, account, { scope: "member", subject: "usr_a", limit: 5n * price });
    await put(books, process, account, { scope: "account", period: "month", limit: 8n * price });
    const served = async (more: Partial<Payer>) =>
      (await callAll([process.book], payerOf(account, more), 12)).length;

    expect(await served({ familyId: "key_a" })).toBe(2);
    expect(await served({ familyId: "key_b" })).toBe(3);
    expect(await served({ familyId: "key_b" })).toBe(0);
    expect(await served({ familyId: "key_c", createdBy: "usr_c" })).toBe(3);
    expect(await served({ familyId: "key_d", createdBy: "" })).toBe(0);
    expect(await served({ mode: "test" })).toBe(0);
  });

  plain(
    "that is lowered stops calls at once and takes nothing back; deleted it binds no more",
    async () => {
      await using books = await openBooks();
      await using process = await openProcess(books);
      const { book, clock } = process;
      const account = newAccountId(0);
      await books.grant(account, 100n * price);
      const budgetId = await put(books, process, account, { scope: "account", limit: 50n * price });
      const running = await callAll([book], payerOf(account), 5);
      expect(running).toHaveLength(5);

      await put(books, process, account, { scope: "account", limit: 3n * price });
      expect(await ask(book, payerOf(account))).toMatchObject({ budgetId, availableNanos: 0n });
      expect(running.some(({ isLost }) => isLost)).toBe(false);
      for (const lease of running) {
        lease.release(0n);
      }
      clock.ms += 1_000;
      await book.tick();
      expect(book.stats().leases).toBe(0);

      await books.superuser.query("update budgets set deleted_at = now()");
      const key = budgetKey(account, "live");
      const { db, trust } = process;
      await trust.settled(
        await db.systemTransaction((tx) => trust.announce(tx, budgetTopic, [key])),
      );
      expect(await callAll([book], payerOf(account), 10)).toHaveLength(10);
    },
  );

  plain(
    "is new each day, and what is left of a lease goes back to the day it was taken from",
    async () => {
      await using books = await openBooks();
      await using process = await openProcess(books);
      const account = newAccountId(0);
      await books.grant(account, 100n * price);
      const budgetId = await put(books, process, account, { scope: "account", limit: 10n * price });
      const [lease] = await callAll([process.book], payerOf(account), 1);
      const before = await takenOf(books, budgetId);
      // The day passes.
      await books.superuser.query("update budget_periods set period_start = period_start - 1");
      await books.superuser.query(
        `update credit_leases set budgets = array[concat(split_part(budgets[1], ' ', 1), ' ',
         split_part(budgets[1], ' ', 2)::date - 1)]`,
      );

      must(lease).release(price);
      await process.book.stop();
      await books.project();
      expect(before).toBeGreaterThanOrEqual(price);
      expect(await takenOf(books, budgetId)).toBe(0n);

      await using next = await openProcess(books);
      await books.superuser.query("update budget_periods set taken_nanos = 10 * $1::int8", [
        `${price}`,
      ]);
      expect(await callAll([next.book], payerOf(account), 20)).toHaveLength(10);
      expect(await takenOf(books, budgetId)).toBe(20n * price);
    },
  );
});

describe("BudgetService", () => {
  const daily = { scope: BudgetScope.ACCOUNT, period: BudgetPeriod.DAY, limitNanos: 5n };

  test("sets, changes, lists and deletes budgets", async ({ app }) => {
    const me = await app.person();
    const budgets = app.client(BudgetService, me.token);
    const set = must((await budgets.putBudget(daily)).budget);
    const again = must((await budgets.putBudget({ ...daily, limitNanos: 7n })).budget);
    const member = { scope: BudgetScope.MEMBER, subjectId: me.id, period: BudgetPeriod.TOTAL };
    const other = must((await budgets.putBudget({ ...member, limitNanos: 0n, test: true })).budget);

    expect(again).toMatchObject({ id: set.id, limitNanos: 7n, takenNanos: 0n, test: false });
    expect(Number(must(again.periodStart).seconds) % 86_400).toBe(0);
    expect(other).toMatchObject({ subjectId: me.id, test: true });
    expect(other.periodStart).toBeUndefined();
    const { budgets: listed } = await budgets.listBudgets({ pageSize: 1 });
    expect(listed.map(({ id }) => id)).toEqual([other.id]);

    await budgets.deleteBudget({ budgetId: set.id });
    await budgets.deleteBudget({ budgetId: set.id });
    expect((await budgets.listBudgets({})).budgets.map(({ id }) => id)).toEqual([other.id]);
    expect(must((await budgets.putBudget(daily)).budget).id).not.toBe(set.id);
  });

  test("refuses a subject that is none, and members who only use the account", async ({ app }) => {
    const [me, stranger] = [await app.person(), await app.person()];
    const budgets = app.client(BudgetService, me.token);
    const member = { ...daily, scope: BudgetScope.MEMBER };
    const codeOf = async (call: Promise<unknown>) =>
      Code[
        ConnectError.from(
          await call.then(
            () => undefined,
            (error) => error,
          ),
        ).code
      ];

    expect(await codeOf(budgets.putBudget({ ...daily, subjectId: me.id }))).toBe("InvalidArgument");
    expect(await codeOf(budgets.putBudget(member))).toBe("InvalidArgument");
    expect(await codeOf(budgets.putBudget({ ...member, subjectId: stranger.id }))).toBe("NotFound");

    await app.db.systemTransaction((tx) =>
      insertMember(tx, { accountId: me.accountId, userId: stranger.id, role: "member" }),
    );
    const theirs = app.client(BudgetService, stranger.token);
    const headers = { "x-account-id": me.accountId };
    const put = theirs.putBudget(daily, { headers });
    expect(await codeOf(put)).toBe("PermissionDenied");
    expect(await codeOf(theirs.setAlert({ thresholdNanos: 1n }, { headers }))).toBe(
      "PermissionDenied",
    );
    expect((await theirs.listBudgets({}, { headers })).budgets).toEqual([]);
    expect((await budgets.putBudget({ ...member, subjectId: stranger.id })).budget).toBeDefined();
  });

  test("sets an alert, whose balance is looked at in the background", async ({ app }) => {
    const me = await app.person();
    const budgets = app.client(BudgetService, me.token);
    expect((await budgets.getAlert({})).alert).toMatchObject({ thresholdNanos: 0n, test: false });

    const { alert } = await budgets.setAlert({ thresholdNanos: 50n, test: true });
    expect(alert).toMatchObject({ thresholdNanos: 50n, test: true });
    expect((await budgets.getAlert({ test: false })).alert?.thresholdNanos).toBe(0n);
    await expect
      .poll(async () => (await budgets.getAlert({ test: true })).alert?.tellTime, {
        timeout: 10_000,
      })
      .toBeDefined();
  });
});
