import { sql } from "slonik";
import { expect, test } from "vitest";
import { z } from "zod";
import { expireNext } from "../src/credits/expiry.ts";
import { drainLeases } from "../src/credits/lease-end.ts";
import { acquireLease, topUpLease } from "../src/credits/leases.ts";
import { takeCredit } from "../src/credits/take.ts";
import type { Tx } from "../src/db/pool.ts";
import { newId } from "../src/lib/id.ts";
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

test("what comes back from a lease pays what is owed first, and burns by that", async () => {
  await using books = await openBooks();
  const accountId = newAccountId();
  await books.grant(accountId, 10n);
  const leaseId = await leaseOf(books, accountId, 10n);
  const spending = { account: accountId, developer, charged: "3" };
  await books.journal.append([usage({ ...spending, lease: leaseId }), usage(spending)]);
  await books.project();
  expect(await books.held(accountId, "consumer_receivable")).toBe(-3n);

  await drain(books);
  await books.project();

  expect(await books.held(accountId, "lease_escrow")).toBe(0n);
  expect(await books.held(accountId, "consumer_receivable")).toBe(0n);
  expect(await books.held(accountId, "consumer")).toBe(4n);
  const burned = "select sum(burned_nanos) as sum from credit_grants where account_id = $1";
  expect(await books.sum(burned, [accountId])).toBe(6n);
});

test("of several leases that come back each pays what is still owed", async () => {
  await using books = await openBooks();
  const accountId = newAccountId();
  await books.grant(accountId, 10n);
  await leaseOf(books, accountId, 4n);
  await leaseOf(books, accountId, 6n);
  await books.journal.append([usage({ account: accountId, developer, charged: "15" })]);
  await books.project();

  await drain(books);
  await books.project();

  expect(await books.held(accountId, "consumer_receivable")).toBe(-5n);
  expect(await books.held(accountId, "consumer")).toBe(0n);
});

const wanted = { accountId: newAccountId(), mode: "live", leastNanos: 1n, wantNanos: 1n } as const;
const now = new Date();
test.for<[string, (tx: Tx, leaseId: string) => Promise<unknown>]>([
  ["opens a lease", (tx) => acquireLease(tx, { ...wanted, holder: "x", shard: 0 }, now)],
  ["adds to a lease", (tx, leaseId) => topUpLease(tx, { ...wanted, leaseId, count: 1 }, now)],
  ["drains leases", (tx) => drainLeases(tx, { holder: "test", leaseIds: null })],
  ["ends grants", (tx) => expireNext(tx, { now, appliedUntil: null })],
  ["takes credit", (tx) => takeCredit(tx, taking, now)],
])("a process that stops while it %s holds its locks no longer than 2 s", async ([, work]) => {
  await using books = await openBooks();
  const { accountId } = wanted;
  await books.grant(accountId, 100n);
  const leaseId = await leaseOf(books, accountId, 10n);
  await books.superuser.query("update credit_grants set expire_at = now()");
  const row = z.object({ limit: z.string() });

  const { limit } = await books.db.systemTransaction(async (tx) => {
    await work(tx, leaseId);
    return tx.one(
      sql.type(row)`select current_setting('idle_in_transaction_session_timeout') as limit`,
    );
  });

  expect(limit).toBe("2s");
});

const taking = {
  ...{ accountId: wanted.accountId, amountNanos: 1n, note: "" },
  mode: "live",
  id: newId("ret", now),
} as const;

async function drain({ db }: Books): Promise<void> {
  await db.systemTransaction((tx) => drainLeases(tx, { holder: "test", leaseIds: null }));
}

const waiting = ({ sum }: Books) =>
  sum(
    `select count(*) as sum from pg_stat_activity
     where wait_event_type = 'Lock' and datname = current_database()`,
  );

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
