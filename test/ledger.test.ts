import { CheckIntegrityConstraintViolationError } from "slonik";
import { expect, test } from "vitest";
import {
  between,
  coverConstraint,
  getBalance,
  type Kind,
  lockBalances,
  platformAccountId,
  postTransfers,
  type Transfer,
} from "../src/ledger/store.ts";
import { openDatabase } from "../src/server.ts";
import { newAccountId, openBooks, projectAll, seeded, usage } from "./support/books.ts";

const now = new Date("2026-11-20T10:00:00Z");

function transfer(accountId: string, id: string, rest: Partial<Transfer> = {}): Transfer {
  const kinds = { debit: "clearing", credit: "consumer" } as const;
  return { accountId, mode: "live", amountNanos: 5n, source: { type: "t", id }, ...kinds, ...rest };
}

test("what goes from one account to another balances, and clearing keeps nothing", async () => {
  await using books = await openBooks();
  const [from, to] = [newAccountId(), newAccountId()];
  await books.grant(from, 100n);

  const move = { mode: "live", amountNanos: 30n, source: { type: "t", id: "1" } } as const;
  await books.db.systemTransaction((tx) =>
    postTransfers(
      tx,
      between({ accountId: from, kind: "consumer" }, { accountId: to, kind: "payable" }, move),
      now,
    ),
  );

  expect(await books.held(from, "consumer")).toBe(70n);
  expect(await books.held(to, "payable")).toBe(30n);
  expect(await books.sum("select sum(credits_nanos - debits_nanos) from ledger_accounts")).toBe(0n);
  expect(
    await books.sum(
      "select sum(credits_nanos - debits_nanos) from ledger_accounts where kind = 'clearing'",
    ),
  ).toBe(0n);
});

const covered: Kind[] = [
  "consumer",
  "lease_escrow",
  "payable",
  "in_flight",
  "platform_fee",
  "treasury_equity",
  "refund_payable",
];
const owed: Kind[] = ["promotion_expense", "chain", "consumer_receivable", "developer_receivable"];

test.for(covered)("%s cannot fall below nothing, not by one nano", async (kind) => {
  await using books = await openBooks();
  const account = newAccountId();
  const post = (id: string, rest: Partial<Transfer>) =>
    books.db.systemTransaction((tx) => postTransfers(tx, [transfer(account, id, rest)], now));
  await post("in", { debit: "clearing", credit: kind, amountNanos: 5n });

  const over = post("over", { debit: kind, credit: "clearing", amountNanos: 6n });

  await expect(over).rejects.toBeInstanceOf(CheckIntegrityConstraintViolationError);
  await expect(over).rejects.toMatchObject({ constraint: coverConstraint });
  expect(await books.held(account, kind)).toBe(5n);
  expect(await books.sum("select count(*) as sum from ledger_transfers")).toBe(1n);
  await post("out", { debit: kind, credit: "clearing", amountNanos: 5n });
  expect(await books.held(account, kind)).toBe(0n);
});

test.for(owed)("%s cannot be paid back beyond what is owed", async (kind) => {
  await using books = await openBooks();
  const account = newAccountId();
  const post = (id: string, rest: Partial<Transfer>) =>
    books.db.systemTransaction((tx) => postTransfers(tx, [transfer(account, id, rest)], now));
  await post("out", { debit: kind, credit: "clearing", amountNanos: 5n });

  const over = post("over", { debit: "clearing", credit: kind, amountNanos: 6n });

  await expect(over).rejects.toMatchObject({ constraint: coverConstraint });
  expect(await books.held(account, kind)).toBe(-5n);
});

test("no other kind of money exists", async () => {
  await using books = await openBooks();
  const stray = transfer(newAccountId(), "1", { credit: "gold" as Kind });

  const posting = books.db.systemTransaction((tx) => postTransfers(tx, [stray], now));

  await expect(posting).rejects.toMatchObject({ constraint: coverConstraint });
});

test("the same cause moves the same two kinds once, within one posting and across them", async () => {
  await using books = await openBooks();
  const account = newAccountId();
  const post = (transfers: Transfer[]) =>
    books.db.systemTransaction((tx) => postTransfers(tx, transfers, now));

  const first = await post([transfer(account, "1"), transfer(account, "1")]);
  const again = await post([
    transfer(account, "1", { amountNanos: 7n }),
    transfer(account, "2"),
    transfer(account, "1", { mode: "test" }),
  ]);

  expect([first, again]).toEqual([1, 2]);
  expect(await books.held(account, "consumer")).toBe(10n);
  expect(await books.held(account, "consumer", "test")).toBe(5n);
});

test("a transfer of nothing is none, and one of less than nothing is refused", async () => {
  await using books = await openBooks();
  const account = newAccountId();
  const post = (amountNanos: bigint) =>
    books.db.systemTransaction((tx) =>
      postTransfers(tx, [transfer(account, "1", { amountNanos })], now),
    );

  expect(await post(0n)).toBe(0);
  await expect(post(-1n)).rejects.toThrow("its amount is negative");
  expect(await books.sum("select count(*) as sum from ledger_transfers")).toBe(0n);
});

test.for(["update ledger_transfers set amount_nanos = 1", "delete from ledger_transfers"])(
  "nobody rewrites what was posted: %s",
  async (statement) => {
    await using books = await openBooks();
    await books.grant(newAccountId(), 5n);

    await expect(books.superuser.query(statement)).rejects.toThrow();
  },
);

test("20 concurrent postings over the same accounts, in any order, lose nothing and wait for none", async () => {
  await using books = await openBooks();
  const random = seeded(20_261_121);
  const accounts = Array.from({ length: 6 }, newAccountId);
  for (const account of accounts) {
    await books.grant(account, 1_000_000n);
  }
  // Two processes: their pools know nothing of each other.
  const other = await openDatabase(books.urls);
  const before = await deadlocks(books);

  const works = Array.from({ length: 20 }, async (_, worker) => {
    const db = worker % 2 === 0 ? books.db : other;
    for (let round = 0; round < 15; round++) {
      const shuffled = [...accounts].sort(() => random() - 0.5);
      const transfers = shuffled.slice(0, 4).flatMap((accountId, index) =>
        between(
          { accountId, kind: "consumer" },
          { accountId: shuffled[5 - index] ?? accountId, kind: "payable" },
          {
            mode: "live",
            amountNanos: BigInt(1 + Math.floor(random() * 50)),
            source: { type: "t", id: `${worker}:${round}:${index}` },
          },
        ),
      );
      const keys = transfers.flatMap(({ accountId, mode, debit, credit }) => [
        { accountId, mode, kind: credit },
        { accountId, mode, kind: debit },
      ]);
      await db.systemTransaction(async (tx) => {
        if (round % 3 === 0) {
          await lockBalances(tx, keys);
        }
        await postTransfers(tx, transfers, now);
      });
    }
  });
  await Promise.all(works);
  await other.close();

  expect(
    await books.sum("select count(*) as sum from ledger_transfers where source_type = 't'"),
  ).toBe(20n * 15n * 8n);
  expect(await drift(books)).toBe(0n);
  expect(await deadlocks(books)).toBe(before);
});

test("concurrent postings of the same causes, in opposite orders, post each once", async () => {
  await using books = await openBooks();
  // So many that the statements overlap.
  const accounts = Array.from({ length: 2_000 }, newAccountId);
  const transfers = accounts.map((account) => transfer(account, "same"));
  const before = await deadlocks(books);

  const posted = await Promise.all(
    Array.from({ length: 6 }, (_, index) =>
      books.db.systemTransaction((tx) =>
        postTransfers(tx, index % 2 === 0 ? transfers : transfers.toReversed(), now),
      ),
    ),
  );

  expect(posted.reduce((sum, count) => sum + count, 0)).toBe(2_000);
  expect(await drift(books)).toBe(0n);
  expect(await deadlocks(books)).toBe(before);
});

test("a balance that is locked says what it holds, and stays so until the transaction ends", async () => {
  await using books = await openBooks();
  const account = newAccountId();
  await books.grant(account, 9n);
  const key = { accountId: account, mode: "live", kind: "consumer" } as const;
  let granted: Promise<void> | undefined;

  const [first, second] = await books.db.systemTransaction(async (tx) => {
    const before = (await lockBalances(tx, [key, { ...key, kind: "payable" }]))(key);
    granted = books.grant(account, 1n);
    const { debitsNanos, creditsNanos } = await getBalance(tx, key);
    return [before, creditsNanos - debitsNanos];
  });
  await granted;

  expect([first, second]).toEqual([9n, 9n]);
  expect(await books.held(account, "consumer")).toBe(10n);
  expect(await books.held(platformAccountId, "promotion_expense")).toBe(-10n);
});

type Books = Awaited<ReturnType<typeof openBooks>>;

/** What the balances differ from the sums of the transfers by. */
function drift(books: Books): Promise<bigint> {
  return books.sum(`
    select coalesce(sum(abs(coalesce(debits_nanos, 0) - coalesce(debits, 0))
      + abs(coalesce(credits_nanos, 0) - coalesce(credits, 0))), 0) as sum
    from ledger_accounts full join (
      select account_id, kind, mode, sum(debit) as debits, sum(credit) as credits from (
        select account_id, debit_kind as kind, mode, amount_nanos as debit, 0 as credit
        from ledger_transfers
        union all select account_id, credit_kind, mode, 0, amount_nanos from ledger_transfers
      ) as sides group by account_id, kind, mode
    ) as moved using (account_id, kind, mode)
  `);
}

/** How often the server had to break a deadlock in this database: a retry hides it. */
async function deadlocks(books: Books): Promise<bigint> {
  await books.superuser.query("select pg_stat_force_next_flush()").catch(() => {});
  await books.superuser.query("select pg_stat_clear_snapshot()");
  return books.sum(
    "select deadlocks as sum from pg_stat_database where datname = current_database()",
  );
}

test("credit pays what the account owes first, and then may be owed again", async () => {
  await using books = await openBooks();
  const [account, developer] = [newAccountId(), newAccountId()];
  const use = async (nanos: bigint) => {
    const event = usage({ account, developer, charged: String(nanos) });
    await books.journal.append([event]);
    await projectAll(books.db, new Date(), { debtLimitNanos: 10n });
  };
  const held = async () => [
    await books.held(account, "consumer"),
    await books.held(account, "consumer_receivable"),
  ];

  await use(10n);
  expect(await held()).toEqual([0n, -10n]);
  await books.grant(account, 4n);
  expect(await held()).toEqual([0n, -6n]);
  await books.grant(account, 4n, "test");
  await books.grant(account, 1_000n);
  expect(await held()).toEqual([994n, 0n]);
  await use(994n);
  await use(10n);

  expect(await held()).toEqual([0n, -10n]);
  expect(await books.sum("select count(*) as sum from usage_quarantine")).toBe(0n);
  expect(await books.held(account, "consumer", "test")).toBe(4n);
});
