import { expect, test } from "vitest";
import { queryRollups } from "../src/metering/meter-query.ts";
import type { Aggregation } from "../src/metering/meter-reading.ts";
import { must } from "./support/app.ts";
import { openBooks, seeded, usage } from "./support/books.ts";
import {
  type Asked,
  aggregations,
  finish,
  quarterMs,
  readMeter,
  recount,
  startHistory,
  voidEvent,
} from "./support/meter-history.ts";

type Books = Awaited<ReturnType<typeof openBooks>>;

/** Meters of one account over events of one quarter of an hour, all built. */
async function openQuarter(books: Books, values: readonly number[], all = aggregations) {
  const time = "2026-07-01T12:00:00Z";
  // Its events are given: none is random.
  const history = startHistory(books, seeded(1), Date.parse(time));
  const [accountId, { developer }] = [must(history.consumers[0]), history];
  const meters = new Map<Aggregation, Asked>();
  for (const aggregation of all) {
    const valuePath = aggregation === "count" ? "" : "$.v";
    const definition = {
      aggregation,
      valuePath,
      groups: [],
      filters: [],
      side: "consumer" as const,
    };
    meters.set(aggregation, await history.meter(accountId, definition));
  }
  const events = values.map((v) =>
    usage({ account: accountId, developer, time, data: `{"v":${v}}` }),
  );
  await books.journal.append(events);
  await finish(books);
  const startMs = Date.parse(time);
  const windows = [{ startMs, endMs: startMs + quarterMs }];
  const query = { mode: "live", windows, groupBy: [], filters: [] } as const;
  async function sums() {
    const shown: Record<string, unknown> = {};
    for (const [aggregation, { id }] of meters) {
      const values = await books.db.tenantRead(accountId, async (tx) =>
        queryRollups(tx, must(await readMeter(books, accountId, id)), query),
      );
      shown[aggregation] = must(values[0]).value;
    }
    return shown;
  }
  return { accountId, events, sums };
}

test("taking an event back reads no events: its shard does not wait for a busy quarter", async () => {
  await using books = await openBooks();
  const { events, sums } = await openQuarter(books, [5, 1, 9, 9]);
  const { superuser } = books;

  // Whoever reads events now waits for ever.
  const target = must(events[1]);
  await voidEvent(books, target, async () => {
    await superuser.query("begin");
    await superuser.query("lock table usage_events in access exclusive mode");
  });
  await superuser.query("rollback");
  const { rows } = await superuser.query("select count(*)::int as pending from meter_recounts");
  while (await recount(books, 1)) {}

  // The least, the latest to come and a different value: none of these was the greatest.
  expect(rows).toEqual([{ pending: 2 }]);
  expect(await sums()).toEqual({
    sum: "23",
    count: "3",
    avg: "7.666666666666666667",
    min: "5",
    max: "9",
    unique_count: "2",
    latest: "9",
  });
});

test("what goes while its quarter is counted anew is not counted by a later page", async () => {
  await using books = await openBooks();
  const { events, sums } = await openQuarter(
    books,
    [3, 1, 2, 2.5],
    ["min", "max", "unique_count", "latest"],
  );

  await voidEvent(books, must(events[1]));
  await recount(books, 2);
  await voidEvent(books, must(events[2]));
  while (await recount(books, 2)) {}

  expect(await sums()).toEqual({ min: "2.5", max: "3", unique_count: "2", latest: "2.5" });
});

test("an event of a quarter that shares a removed month takes only itself away", async () => {
  await using books = await openBooks();
  const { events, sums } = await openQuarter(books, [5, 7]);
  await books.superuser.query(
    "update usage_events set received_month = '2026-06-01' where position = 1 and ordinal = 0",
  );
  await books.superuser.query("delete from usage_events where received_month = '2026-06-01'");
  await books.superuser.query(
    `insert into usage_partition_totals (
       received_month, mode, events, charged_nanos, fee_nanos, last_position
     ) values ('2026-07-01', 'live', 1, 0, 0, 1)`,
  );

  await voidEvent(books, must(events[1]));
  while (await recount(books)) {}

  // What is removed may have been the greatest, or not: it is not known any more.
  const kept = { sum: "5", count: "1", avg: "5", min: "5", max: "7", latest: "7" };
  expect(await sums()).toMatchObject(kept);
});
