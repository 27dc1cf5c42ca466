import { randomUUID } from "node:crypto";
import { Registry } from "prom-client";
import { expect, test } from "vitest";
import type { Tx } from "../src/db/pool.ts";
import { shardCount } from "../src/metering/entry.ts";
import { createProjectorMetrics } from "../src/metering/projector-metrics.ts";
import { startProjectors } from "../src/metering/projectors.ts";
import { until } from "./support/app.ts";
import { newAccountId, openBooks, usage } from "./support/books.ts";

type Books = Awaited<ReturnType<typeof openBooks>>;

test("while calls have the process busy, shards are applied one after the other", async () => {
  await using books = await openBooks();
  let [running, most] = [0, 0];
  const held = new Set<number>();
  const projectors = start(held, {
    async systemTransaction<T>(work: (tx: Tx) => Promise<T>): Promise<T> {
      // At first each shard is claimed.
      const counts = held.size === shardCount;
      running += counts ? 1 : 0;
      most = Math.max(most, running);
      try {
        return await books.db.systemTransaction(work);
      } finally {
        running -= counts ? 1 : 0;
      }
    },
  });
  await until(() => held.size === shardCount);
  for (let round = 0; round < 20; round++) {
    await books.journal.append([0, 1].flatMap((shard) => eventsOf(shard, 50)));
    projectors.wake();
  }
  await until(async () => (await behind(books)) === 0n);
  expect(most).toBe(1);
  await projectors.stop();
  expect(await books.sum("select count(*) as sum from usage_events")).toBe(2_000n);
});

test("a shard that waits for a lock keeps the others waiting for a moment only", async () => {
  await using books = await openBooks();
  const held = new Set<number>();
  const errors: unknown[] = [];
  const projectors = start(held, books.db, errors);
  await until(() => held.size === shardCount);
  await books.superuser.query("begin");
  await books.superuser.query("select from projector_cursors where shard = 0 for update");
  await books.journal.append([0, 1].flatMap((shard) => eventsOf(shard, 5)));
  projectors.wake();

  await until(async () => (await eventsIn(books, 1)) === 5n);
  // The one that waits has not even given up.
  expect(errors).toEqual([]);
  expect(await eventsIn(books, 0)).toBe(0n);
  await books.superuser.query("rollback");
  await until(async () => (await eventsIn(books, 0)) === 5n);
  await projectors.stop();
});

/** Start projectors of a busy process. Which shards they hold is noted. */
function start(
  held: Set<number>,
  db: Parameters<typeof startProjectors>[0]["db"],
  errors: unknown[] = [],
) {
  const metrics = createProjectorMetrics(new Registry());
  return startProjectors({
    db,
    progress: { note: () => {} },
    shards: shardCount,
    holder: randomUUID(),
    debtLimitNanos: 100_000_000_000n,
    now: () => new Date(),
    onError: (error) => errors.push(error),
    metrics: { ...metrics, held: (shard) => held.add(shard) },
    isBusy: () => true,
  });
}

function eventsOf(shard: number, count: number) {
  const [account, developer] = [newAccountId(shard), newAccountId()];
  return Array.from({ length: count }, () => usage({ account, developer }));
}

function eventsIn(books: Books, shard: number): Promise<bigint> {
  return books.sum(`select count(*) as sum from usage_events where shard = ${shard}`);
}

function behind(books: Books): Promise<bigint> {
  return books.sum(
    "select (select position from journal_head) - (select min(position) from projector_cursors) as sum",
  );
}
