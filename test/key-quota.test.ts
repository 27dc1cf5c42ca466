import { test as base, expect, inject } from "vitest";
import type { Database } from "../src/db/database.ts";
import { createQuotas } from "../src/keys/quota.ts";
import { upsertQuota } from "../src/keys/store.ts";
import { consumeUses } from "../src/keys/use-store.ts";
import { newId } from "../src/lib/id.ts";
import { openDatabase } from "../src/server.ts";
import { createDatabase, type Urls } from "./support/cluster.ts";
import { newPerson } from "./support/people.ts";
import { asSuperuser } from "./support/superuser.ts";

const test = base.extend<{ $file: { at: { db: Database; urls: Urls } } }>({
  at: [
    // biome-ignore lint/correctness/noEmptyPattern: vitest reads the pattern
    async ({}, use) => {
      const database = await createDatabase(inject("cluster"));
      const db = await openDatabase(database.urls);
      await use({ db, urls: database.urls });
      await db.close();
      await database.drop();
    },
    { scope: "file" },
  ],
});

test.for([
  { refill: "none", day: 1, after: "2026-01-01T00:00:00Z", next: null },
  { refill: "daily", day: 1, after: "2026-01-01T00:00:00Z", next: "2026-01-02T00:00:00Z" },
  { refill: "daily", day: 1, after: "2026-12-31T23:59:59.999Z", next: "2027-01-01T00:00:00Z" },
  { refill: "daily", day: 1, after: "2026-03-29T01:30:00Z", next: "2026-03-30T00:00:00Z" },
  { refill: "monthly", day: 1, after: "2026-01-01T00:00:00Z", next: "2026-02-01T00:00:00Z" },
  { refill: "monthly", day: 15, after: "2026-01-14T23:59:59Z", next: "2026-01-15T00:00:00Z" },
  { refill: "monthly", day: 15, after: "2026-01-15T00:00:00Z", next: "2026-02-15T00:00:00Z" },
  { refill: "monthly", day: 31, after: "2026-01-31T00:00:00Z", next: "2026-02-28T00:00:00Z" },
  { refill: "monthly", day: 31, after: "2028-01-31T00:00:00Z", next: "2028-02-29T00:00:00Z" },
  { refill: "monthly", day: 31, after: "2026-02-28T00:00:00Z", next: "2026-03-31T00:00:00Z" },
  { refill: "monthly", day: 31, after: "2026-12-31T12:00:00Z", next: "2027-01-31T00:00:00Z" },
])("a $refill refill on day $day comes after $after at $next", async (row, { at }) => {
  const { refill, day, after, next } = row;
  for (const zone of ["UTC", "America/New_York", "Asia/Kolkata"]) {
    const [found] = await asSuperuser(at, async (client) => {
      await client.query(`set timezone = '${zone}'`);
      const query = "select callora_next_refill($1, $2, $3::timestamptz) as next";
      return (await client.query(query, [refill, day, after])).rows;
    });
    expect([zone, found.next]).toEqual([zone, next === null ? null : new Date(next)]);
  }
});

test("a refill replaces what is left, once for each time that has come", async ({ at }) => {
  const made = new Date("2026-01-10T12:00:00Z");
  const key = await quota(at, { usesMax: 10n, refill: "daily", refillDay: 1 }, made);
  const take = async (cost: number, time: string) => {
    const [row] = await at.db.systemTransaction((tx) =>
      consumeUses(tx, [{ ...key, cost }], new Date(time)),
    );
    return [row?.is_granted, row?.uses_left];
  };

  expect(await take(7, "2026-01-10T13:00:00Z")).toEqual([true, 3n]);
  expect(await take(4, "2026-01-10T23:59:59Z")).toEqual([false, 3n]);
  expect(await take(4, "2026-01-11T00:00:00Z")).toEqual([true, 6n]);
  // A process whose clock is behind does not fill it again, and neither does the same day.
  expect(await take(7, "2026-01-10T23:59:59Z")).toEqual([false, 6n]);
  expect(await take(7, "2026-01-11T23:00:00Z")).toEqual([false, 6n]);
  expect(await take(11, "2026-01-20T05:00:00Z")).toEqual([false, 10n]);
  expect(await take(10, "2026-01-20T06:00:00Z")).toEqual([true, 0n]);
  expect(await take(0, "2026-01-20T06:00:00Z")).toEqual([true, 0n]);
});

test("takings of one moment are granted wholly or not, and refused only when they do not fit", async ({
  at,
}) => {
  const now = new Date();
  const [one, other] = [
    await quota(at, { usesMax: 10n, refill: "none", refillDay: 1 }, now),
    await quota(at, { usesMax: 4n, refill: "none", refillDay: 1 }, now),
  ];
  const none = { ...one, familyId: newId("key", now) };
  const takings = [
    { ...one, cost: 8 },
    { ...other, cost: 4 },
    { ...one, cost: 3 },
    { ...other, cost: 5 },
    { ...none, cost: 5 },
    { ...one, cost: 3 },
    { ...one, cost: 0 },
  ];

  const rows = await at.db.systemTransaction((tx) => consumeUses(tx, takings, now));

  const granted = takings.map((_taking, n) => rows.find((row) => row.n === n)?.is_granted);
  expect(granted).toEqual([false, true, true, false, undefined, true, true]);
  expect(rows.map(({ uses_left }) => uses_left).toSorted()).toEqual([0n, 0n, 4n, 4n, 4n, 4n]);
});

test("of 5000 uses of three by three processes a quota of 1000 grants exactly 333", async ({
  at,
}) => {
  const now = () => new Date();
  const key = await quota(at, { usesMax: 1000n, refill: "none", refillDay: 1 }, now());
  const free = await quota(at, { usesMax: 1_000_000n, refill: "none", refillDay: 1 }, now());
  const processes = await Promise.all(
    Array.from({ length: 3 }, async () => {
      const db = await openDatabase(at.urls);
      return { db, quotas: createQuotas({ db, now }) };
    }),
  );

  const takings = await Promise.all(
    Array.from({ length: 5000 }, async (_taking, n) => {
      // In rounds, so that the processes' statements meet; the other quota is locked along with it.
      await new Promise((resolve) => setTimeout(resolve, n % 50));
      const process = processes[n % 3];
      const taken = process?.quotas.take({ ...key, cost: 3 });
      await process?.quotas.take({ ...free, cost: 1 });
      return taken;
    }),
  );

  expect(takings.filter((taking) => taking?.isGranted)).toHaveLength(333);
  const left = await asSuperuser(at, async (client) => {
    const query = "select uses_left::int4 from key_quotas where family_id = any($1) order by 1";
    const { rows } = await client.query(query, [[key.familyId, free.familyId]]);
    return rows.map(({ uses_left }) => uses_left);
  });
  expect(left).toEqual([1, 995_000]);
  await Promise.all(processes.map(({ db }) => db.close()));
});

async function quota(
  { db }: { db: Database },
  rules: Parameters<typeof upsertQuota>[2],
  now: Date,
) {
  const { accountId, userId } = await newPerson(db);
  const familyId = newId("key", now);
  const tenant = { accountId, actor: userId, ip: "", requestId: "", action: "" };
  await db.tenantTransaction({ ...tenant, audited: () => {} }, (tx) =>
    upsertQuota(tx, { accountId, familyId, now }, rules),
  );
  return { accountId, familyId };
}
