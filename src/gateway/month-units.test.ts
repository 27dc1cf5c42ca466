import { expect, test } from "vitest";
import { newAccountId, newApiId, openBooks, usage } from "../../test/support/books.ts";
import { createMonthUnits } from "./month-units.ts";

test("units of a month: those of others once they are applied, and the own ones at once", async () => {
  await using books = await openBooks();
  const [accountId, apiId, developer] = [newAccountId(), newApiId(), newAccountId()];
  const key = { accountId, apiId, mode: "live" } as const;
  let time = "2026-11-20T10:00:00.000Z";
  let clockMs = 0;
  const months = createMonthUnits({
    db: books.db,
    now: () => new Date(time),
    nowMs: () => clockMs,
  });
  const event = { account: accountId, api: apiId, developer, charged: "0" };
  const others = async (units: bigint) => {
    await books.journal.append([usage({ ...event, time, units })]);
    await books.project();
  };
  await others(5n);

  const [first, again] = await Promise.all([months.before(key), months.before(key)]);
  months.used(key, 3n);

  expect([first, again]).toEqual([5n, 5n]);
  expect(months.before(key)).toBe(8n);
  expect(await months.before({ ...key, mode: "test" })).toBe(0n);

  // Of others, more than the own ones: seen after the while.
  await others(10n);
  expect(months.before(key)).toBe(8n);
  clockMs += 2_001;
  expect(months.before(key)).toBe(8n);
  await expect.poll(() => months.before(key)).toBe(15n);
  months.used(key, 1n);
  expect(months.before(key)).toBe(15n);

  time = "2026-12-01T00:00:00.000Z";
  expect(await months.before(key)).toBe(0n);
});

test("a first question that fails is asked again, and a later one leaves what is known", async () => {
  await using books = await openBooks();
  let clockMs = 0;
  const months = createMonthUnits({
    db: books.db,
    now: () => new Date("2026-11-20T10:00:00.000Z"),
    nowMs: () => clockMs,
  });
  const key = { accountId: newAccountId(), apiId: newApiId(), mode: "live" } as const;

  await books.superuser.query("revoke select on billing_lines from callora_worker");
  await expect(months.before(key)).rejects.toThrow();
  await books.superuser.query("grant select on billing_lines to callora_worker");
  expect(await months.before(key)).toBe(0n);
  months.used(key, 7n);
  await books.superuser.query("revoke select on billing_lines from callora_worker");
  clockMs += 3_000;
  expect(months.before(key)).toBe(7n);
  // Heard in the database's log alone: the process goes on, and so does the count.
  await books.db.systemStatement(async () => {});
  expect(months.before(key)).toBe(7n);
});
