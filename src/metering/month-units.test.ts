import { expect, test } from "vitest";
import { newAccountId, newApiId, openBooks, usage } from "../../test/support/books.ts";
import type { Database } from "../db/database.ts";
import { createMonthUnits } from "./month-units.ts";

const time = "2026-11-20T10:00:00.000Z";
const month = "2026-11-01";

async function open() {
  const books = await openBooks();
  const clock = { ms: 0 };
  const reads: Promise<unknown>[] = [];
  const db: Pick<Database, "systemStatement"> = {
    systemStatement(work) {
      const reading = books.db.systemStatement(work);
      reads.push(reading);
      return reading;
    },
  };
  const [accountId, apiId, developer] = [newAccountId(), newApiId(), newAccountId()];
  return {
    books,
    clock,
    key: { accountId, apiId, month, mode: "live" } as const,
    months: createMonthUnits({ db, nowMs: () => clock.ms }),
    /** Wait until what is asked in the background is answered. */
    settled: () => Promise.all(reads),
    /** Write units as any process does. Returns where they stand. */
    async write(units: bigint): Promise<bigint> {
      const event = { account: accountId, api: apiId, developer, charged: "0", time, units };
      return (await books.journal.append([usage(event)])).position;
    },
    [Symbol.asyncDispose]: () => books[Symbol.asyncDispose](),
  };
}

test("own units count at once, and once, whether they are applied or not", async () => {
  await using shop = await open();
  const { key, months, clock, books } = shop;
  await shop.write(5n);
  await books.project();
  const count = await months.of(key);

  count.count(3n);
  expect(count.units).toBe(8n);
  count.written(3n, await shop.write(3n));
  await shop.write(10n);
  clock.ms += 2_001;
  await months.of(key);
  await shop.settled();
  expect(count.units).toBe(8n);

  // Applied with those of others: seen after the while.
  await books.project();
  expect(count.units).toBe(8n);
  clock.ms += 2_001;
  await months.of(key);
  await expect.poll(() => count.units).toBe(18n);
  count.count(1n);
  expect(count.units).toBe(19n);
  count.withdraw(1n);
  expect(count.units).toBe(18n);
  expect((await months.of({ ...key, mode: "test" })).units).toBe(0n);
  expect((await months.of({ ...key, month: "2026-12-01" })).units).toBe(0n);
});

test("units that are applied before their writer hears that they are written count once", async () => {
  await using shop = await open();
  const { key, months, clock, books } = shop;
  const count = await months.of(key);
  count.count(3n);
  const position = await shop.write(3n);
  await books.project();
  clock.ms += 2_001;
  await months.of(key);
  await expect.poll(() => count.units).toBe(6n);

  count.written(3n, position);

  expect(count.units).toBe(3n);
});

test("a call may end after all that are under way, however they end", async () => {
  await using shop = await open();
  const count = await shop.months.of(shop.key);

  expect(count.begin(10n)).toEqual({ least: 0n, most: 0n });
  expect(count.begin(10n)).toEqual({ least: 0n, most: 10n });
  count.end(10n);
  count.count(4n);

  expect(count.begin(10n)).toEqual({ least: 4n, most: 14n });
});

test("a count that is older than ten seconds is waited for, unless the database is away", async () => {
  await using shop = await open();
  const { key, months, clock, books } = shop;
  await books.superuser.query("revoke select on billing_lines from callora_worker");
  await expect(months.of(key)).rejects.toThrow();
  await books.superuser.query("grant select on billing_lines to callora_worker");
  const count = await months.of(key);
  count.count(7n);
  await shop.write(2n);
  await books.project();

  clock.ms += 10_001;
  expect((await months.of(key)).units).toBe(9n);
  await books.superuser.query("revoke select on billing_lines from callora_worker");
  clock.ms += 10_001;
  expect((await months.of(key)).units).toBe(9n);
});
