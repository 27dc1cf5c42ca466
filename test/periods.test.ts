import { sql } from "slonik";
import { expect, test } from "vitest";
import { z } from "zod";
import { closePeriods } from "../src/metering/periods.ts";
import { newAccountId, openBooks, usage } from "./support/books.ts";

type Books = Awaited<ReturnType<typeof openBooks>>;

function close(books: Books, settlementId: string, now: string): Promise<void> {
  return books.db.systemTransaction((tx) => closePeriods(tx, settlementId, new Date(now)));
}

async function months(books: Books) {
  const { rows } = await books.superuser.query(
    "select month::text, closed_position::int, settlement_id from periods order by month",
  );
  return rows;
}

/** What an account is billed, by month. */
async function billed(books: Books, account: string) {
  const { rows } = await books.superuser.query(
    `select booked_month::text as month, sum(calls)::int as calls, sum(charged_nanos)::int as nanos
     from usage_rollups where account_id = $1 group by 1 order by 1`,
    [account],
  );
  return rows;
}

test("a run closes the months that have ended, once, and none before that it knows", async () => {
  await using books = await openBooks();

  await close(books, "stl_1", "2026-10-31T23:59:59Z");
  await close(books, "stl_2", "2026-10-31T23:59:59Z");
  await close(books, "stl_3", "2026-12-01T00:00:00Z");

  expect(await months(books)).toEqual([
    { month: "2026-07-01", closed_position: 0, settlement_id: "stl_1" },
    { month: "2026-08-01", closed_position: 0, settlement_id: "stl_1" },
    { month: "2026-09-01", closed_position: 0, settlement_id: "stl_1" },
    { month: "2026-10-01", closed_position: 0, settlement_id: "stl_3" },
    { month: "2026-11-01", closed_position: 0, settlement_id: "stl_3" },
  ]);
});

test("a run that stops while it closes months keeps nobody from appending for long", async () => {
  await using books = await openBooks();
  const row = z.object({ limit: z.string() });

  const { limit } = await books.db.systemTransaction(async (tx) => {
    await closePeriods(tx, "stl_1", new Date("2026-10-31T23:59:59Z"));
    return tx.one(
      sql.type(row)`select current_setting('idle_in_transaction_session_timeout') as limit`,
    );
  });

  expect(limit).toBe("2s");
});

test("what is billed of a closed month never changes: neither by late events nor by corrections", async () => {
  await using books = await openBooks();
  const [account, developer] = [newAccountId(), newAccountId()];
  await books.grant(account, 1_000n);
  const october = { account, developer, charged: "100", time: "2026-10-15T00:00:00.000Z" };
  const first = usage(october);
  await books.journal.append([first]);
  // Durable before the month is closed, applied after.
  await books.journal.append([usage({ ...october, charged: "7" })]);
  await close(books, "stl_1", "2026-11-02T00:00:00Z");
  await books.project();
  const closed = await billed(books, account);

  await books.journal.append([usage({ ...october, charged: "30" })]);
  const { source, id } = first;
  const correctionId = `cor_${"0".repeat(26)}`;
  await books.journal.append([
    { kind: "void", account, source, id, correctionId, adjustedNanos: 0n, reason: "late" },
  ]);
  await books.project();

  expect(closed).toEqual([{ month: "2026-10-01", calls: 2, nanos: 107 }]);
  expect(await billed(books, account)).toEqual([
    ...closed,
    { month: "2026-11-01", calls: 0, nanos: -70 },
  ]);
  expect((await months(books)).at(-1)).toMatchObject({ closed_position: 2 });
});
