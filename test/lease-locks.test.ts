import { expect, test } from "vitest";
import { acquireLease, topUpLease } from "../src/credits/leases.ts";
import type { Tx } from "../src/db/pool.ts";
import { shardCount, shardOf } from "../src/metering/entry.ts";
import { must, until } from "./support/app.ts";
import { newAccountId, openBooks, projectOnce, usage } from "./support/books.ts";

type Books = Awaited<ReturnType<typeof openBooks>>;

const developer = newAccountId();

test("a refused event is looked for while its lease is added to: neither waits for the other for ever", async () => {
  await using books = await openBooks();
  const accountId = newAccountId();
  await books.grant(accountId, 1_000n);
  const leaseId = await leaseOf(books, accountId, 100n);
  await books.superuser.query(
    "alter table usage_events add constraint no_poison check (endpoint <> 'poison')",
  );
  const event = { account: accountId, developer, charged: "1", lease: leaseId };
  await books.journal.append([usage({ ...event, endpoint: "poison" }), usage(event)]);
  let adding: Promise<unknown> | undefined;
  const added = {
    accountId,
    mode: "live",
    leaseId,
    count: 1,
    leastNanos: 10n,
    wantNanos: 10n,
  } as const;

  // Once the search has its locks somebody adds to the lease, up to the lock that he waits for.
  await projectOnce(books.db, shardOf(accountId, shardCount), {
    wrap: (tx) =>
      before(tx, "savepoint search", async () => {
        adding ??= books.db.systemTransaction((other) => topUpLease(other, added, new Date()));
        adding.catch(() => {});
        await until(async () => (await waiting(books)) > 0n);
      }),
  });
  await adding;

  expect(await books.sum("select count(*) as sum from usage_events")).toBe(1n);
  const deadlocks =
    "select deadlocks as sum from pg_stat_database where datname = current_database()";
  expect(await books.sum(deadlocks)).toBe(0n);
});

const waiting = ({ sum }: Books) =>
  sum("select count(*) as sum from pg_stat_activity where wait_event_type = 'Lock'");

/** A transaction that does something before a statement. */
function before(tx: Tx, text: string, work: () => Promise<void>): Tx {
  return new Proxy(tx, {
    get: (of, name) =>
      name === "query"
        ? async (query: Parameters<Tx["query"]>[0]) => {
            if (query.sql.includes(text)) {
              await work();
            }
            return of.query(query);
          }
        : Reflect.get(of, name),
  });
}

async function leaseOf({ db }: Books, accountId: string, nanos: bigint): Promise<string> {
  const wanted = { accountId, mode: "live", wantNanos: nanos, leastNanos: nanos } as const;
  const shard = shardOf(accountId, shardCount);
  const result = await db.systemTransaction((tx) =>
    acquireLease(tx, { ...wanted, holder: "test", shard }, new Date()),
  );
  return must("lease" in result ? result.lease : undefined).id;
}
