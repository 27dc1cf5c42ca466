import { expect, test } from "vitest";
import { readMonthSums } from "../src/credits/invoice-store.ts";
import { showBalance } from "../src/credits/shown.ts";
import { listTransactions, type SourceType } from "../src/credits/store.ts";
import type { Tx } from "../src/db/pool.ts";
import { postTransfers, type Transfer } from "../src/ledger/store.ts";
import { newId } from "../src/lib/id.ts";
import { newAccountId, openBooks, usage } from "./support/books.ts";

type Books = Awaited<ReturnType<typeof openBooks>>;

/** Transfers of the account. Far more than any read may look at. */
const transfers = 20_000;

test("what an account has and did is read without its history", { timeout: 120_000 }, async () => {
  await using books = await openBooks();
  const accountId = newAccountId();
  await books.grant(accountId, 1_000_000n);
  const event = usage({ account: accountId, developer: newAccountId(), charged: "300" });
  await books.journal.append([event]);
  await books.project();
  await plantUsage(books, accountId);
  await books.grant(accountId, 7n);
  const of = { accountId, mode: "live" } as const;
  const list = (query: { type?: SourceType; from?: Date; to?: Date; after?: string }) => (tx: Tx) =>
    listTransactions(tx, {
      ...{ ...of, type: null, from: null, to: null, after: "", limit: 11 },
      ...query,
    });

  const newest = await books.db.systemTransaction(list({}));
  const reads = {
    balance: await rowsRead(books, (tx) => showBalance(tx, accountId, "live")),
    month: await rowsRead(books, (tx) => readMonthSums(tx, { ...of, month: "2000-01-01" })),
    newest: await rowsRead(books, list({})),
    next: await rowsRead(books, list({ after: newest.at(-1)?.id ?? "" })),
    grants: await rowsRead(books, list({ type: "grant" })),
    long_ago: await rowsRead(books, list({ to: new Date("2020-01-01T00:05:00Z") })),
  };

  expect(Object.entries(reads).filter(([, rows]) => rows > 200)).toEqual([]);
  expect(newest[0]).toMatchObject({ source_type: "grant", balance_nanos: 999_707n });
});

test("each transaction says what was there after it, whatever is left out of the list", async () => {
  await using books = await openBooks();
  const account = newAccountId();
  const developer = newAccountId();
  for (const nanos of [100n, 50n]) {
    await books.grant(account, nanos);
    await books.journal.append([usage({ account, developer, charged: "70" })]);
    await books.project();
  }
  const list = async (type: SourceType | null) => {
    const of = { accountId: account, mode: "live", from: null, to: null, after: "" } as const;
    const rows = await books.db.systemTransaction((tx) =>
      listTransactions(tx, { ...of, type, limit: 10 }),
    );
    return rows.map(({ balance_nanos }) => balance_nanos);
  };

  expect(await list(null)).toEqual([10n, 80n, 30n, 100n]);
  expect(await list("grant")).toEqual([80n, 100n]);
  expect(await list("usage")).toEqual([10n, 30n]);
});

test("a transfer that comes twice counts once in what the others say is there", async () => {
  await using books = await openBooks();
  const account = newAccountId();
  const grant = (id: string, amountNanos: bigint): Transfer => ({
    ...{ accountId: account, mode: "live", debit: "clearing", credit: "consumer", amountNanos },
    source: { type: "grant", id },
  });
  const charge = (id: string, amountNanos: bigint): Transfer => ({
    ...{ accountId: account, mode: "live", debit: "consumer", credit: "clearing", amountNanos },
    source: { type: "usage", id },
  });
  const post = (transfers: Transfer[]) =>
    books.db.systemTransaction((tx) => postTransfers(tx, transfers, new Date()));
  const first = [grant("1", 100n), grant("1", 100n), charge("1", 7n), charge("1", 7n)];

  expect(await post(first)).toBe(2);
  expect(await post(first)).toBe(0);
  await expect(post([grant("1", 100n), grant("2", 50n), charge("2", 9n)])).rejects.toThrow(
    "some of them were posted before",
  );
  expect(await post([grant("2", 50n), charge("2", 9n), grant("2", 50n)])).toBe(2);

  // Those of one posting are in the order of their ids.
  const { rows } = await books.superuser.query(
    `select balance_nanos as told, sum(
       case credit_kind when 'consumer' then amount_nanos else -amount_nanos end
     ) over (order by id) as there
     from ledger_transfers where account_id = $1 order by id`,
    [account],
  );
  expect(rows).toHaveLength(4);
  expect(rows.map(({ told }) => told)).toEqual(rows.map(({ there }) => there));
  expect(await books.held(account, "consumer")).toBe(134n);
});

/** Hours of usage, as if it had been applied: the balances are not moved. */
async function plantUsage({ superuser }: Books, accountId: string): Promise<void> {
  const begin = Date.parse("2020-01-01T00:00:00Z");
  const times = Array.from({ length: transfers }, (_, index) => new Date(begin + index * 1_000));
  await superuser.query("alter table ledger_transfers disable trigger user");
  await superuser.query(
    `insert into ledger_transfers (account_id, id, mode, debit_kind, credit_kind, amount_nanos,
       source_type, source_id, created_at, position, balance_nanos)
     select $1, id, 'live', 'lease_escrow', 'clearing', 1, 'usage', id, time, 0, 5
     from unnest($2::text[], $3::timestamptz[]) as planted (id, time)`,
    [accountId, times.map((time) => newId("trf", time)), times],
  );
  await superuser.query("analyze");
}

/** How many rows the statements of some work look at. */
async function rowsRead(
  { db, superuser }: Books,
  work: (tx: Tx) => Promise<unknown>,
): Promise<number> {
  const statements: { sql: string; values: readonly unknown[] }[] = [];
  await db.systemTransaction((tx) =>
    work(
      new Proxy(tx, {
        get: (of, name) =>
          name === "any" || name === "one"
            ? (query: Parameters<Tx["any"]>[0]) => {
                statements.push(query);
                return of[name](query);
              }
            : Reflect.get(of, name),
      }),
    ),
  );
  let count = 0;
  for (const { sql, values } of statements) {
    const text = `explain (analyze, format json) ${sql.replaceAll("$slonik_", "$")}`;
    const { rows } = await superuser.query(text, [...values]);
    count += rowsOf(rows[0]["QUERY PLAN"][0].Plan);
  }
  return count;
}

interface Plan {
  "Relation Name"?: string;
  "Actual Rows": number;
  "Actual Loops": number;
  "Rows Removed by Filter"?: number;
  Plans?: Plan[];
}

function rowsOf(plan: Plan): number {
  const seen = plan["Actual Rows"] + (plan["Rows Removed by Filter"] ?? 0);
  const own = plan["Relation Name"] === undefined ? 0 : seen * plan["Actual Loops"];
  return (plan.Plans ?? []).reduce((sum, one) => sum + rowsOf(one), own);
}
