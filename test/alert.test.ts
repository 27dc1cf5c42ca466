import { expect, test } from "vitest";
import { type LowBalance, rearmAlert, tellLowBalances } from "../src/credits/alert.ts";
import { acquireLease } from "../src/credits/leases.ts";
import type { Mode } from "../src/ledger/store.ts";
import { newAccountId, openBooks, usage } from "./support/books.ts";

type Books = Awaited<ReturnType<typeof openBooks>>;

async function set(
  { superuser }: Books,
  accountId: string,
  threshold: bigint,
  mode: Mode = "live",
) {
  await superuser.query(
    "insert into balance_alerts (account_id, mode, threshold_nanos) values ($1, $2, $3)",
    [accountId, mode, threshold.toString()],
  );
}

/** What is told now: of which balance, and what it is. */
async function told({ db }: Books): Promise<string[]> {
  const all: LowBalance[] = [];
  await db.systemTransaction((tx) =>
    tellLowBalances(tx, async (low) => {
      all.push(low);
    }),
  );
  return all.map(({ payload }) => `${payload.mode} ${payload.balanceNanos}`);
}

async function spend(books: Books, account: string, nanos: bigint): Promise<void> {
  const developer = newAccountId(0);
  await books.journal.append([usage({ account, developer, charged: `${nanos}` })]);
  await books.project();
}

test("an account is told once when its balance falls, and again after it has risen", async () => {
  await using books = await openBooks();
  const account = newAccountId(0);
  await books.grant(account, 100n);
  await books.grant(account, 10n, "test");
  await set(books, account, 50n);
  expect(await told(books)).toEqual([]);

  await spend(books, account, 50n);
  expect(await told(books)).toEqual([]);
  await spend(books, account, 1n);
  expect([await told(books), await told(books)]).toEqual([["live 49"], []]);
  await spend(books, account, 9n);
  expect(await told(books)).toEqual([]);

  await books.grant(account, 9n);
  expect(await told(books)).toEqual([]);
  await books.grant(account, 1n);
  expect(await told(books)).toEqual([]);
  await spend(books, account, 1n);
  expect(await told(books)).toEqual(["live 49"]);
});

test("what rises and falls between two looks is told if whoever raised it said so", async () => {
  await using books = await openBooks();
  const account = newAccountId(0);
  await books.grant(account, 40n);
  await set(books, account, 50n);
  expect(await told(books)).toEqual(["live 40"]);

  const rearm = (balanceNanos: bigint) =>
    books.db.systemTransaction((tx) =>
      rearmAlert(tx, { accountId: account, mode: "live", balanceNanos }),
    );
  await rearm(49n);
  expect(await told(books)).toEqual([]);
  await rearm(50n);

  expect(await told(books)).toEqual(["live 40"]);
});

test("what is set aside for calls is not spent, and no threshold tells nothing", async () => {
  await using books = await openBooks();
  const [account, silent] = [newAccountId(0), newAccountId(0)];
  await books.grant(account, 100n);
  await set(books, account, 50n);
  await set(books, silent, 0n);
  const all = { leastNanos: 90n, wantNanos: 90n };
  await books.db.systemTransaction((tx) =>
    acquireLease(
      tx,
      { accountId: account, mode: "live", holder: "h", shard: 0, ...all },
      new Date(),
    ),
  );

  expect(await told(books)).toEqual([]);
});

test("two processes that look at once tell it once", async () => {
  await using books = await openBooks();
  for (let count = 0; count < 5; count++) {
    await set(books, newAccountId(0), 50n);
  }

  const both = await Promise.all([told(books), told(books)]);

  expect(both.flat()).toHaveLength(5);
});
