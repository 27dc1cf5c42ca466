import { expect, test } from "vitest";
import { drainLeases } from "../src/credits/lease-end.ts";
import { acquireLease } from "../src/credits/leases.ts";
import { createJournal, type Journal } from "../src/metering/journal.ts";
import { openDatabase } from "../src/server.ts";
import { until } from "./support/app.ts";
import { newAccountId, openBooks, seeded, usage } from "./support/books.ts";

const price = 1_000n;
const developer = newAccountId(0);

type Books = Awaited<ReturnType<typeof openBooks>>;

async function lease({ db, grant }: Books, account: string, calls: bigint): Promise<string> {
  await grant(account, calls * price);
  const nanos = { leastNanos: calls * price, wantNanos: calls * price };
  const wanted = { accountId: account, mode: "live", holder: "h", shard: 0, ...nanos } as const;
  const outcome = await db.systemTransaction((tx) => acquireLease(tx, wanted, new Date()));
  if (!("lease" in outcome)) {
    throw new Error("no lease");
  }
  return outcome.lease.id;
}

/** Push an event under a lease. Resolves with what its sink is told. */
function push(journal: Journal, account: string, leaseId: string, isStrict = true) {
  const entry = usage({ account, developer, charged: `${price}`, lease: leaseId });
  return new Promise<"durable" | "LeaseEndedError">((resolve, reject) => {
    journal.push(
      entry,
      {
        onDurable: () => resolve("durable"),
        onRefused: (error) =>
          error instanceof Error && error.name === "LeaseEndedError"
            ? resolve("LeaseEndedError")
            : reject(error),
      },
      isStrict,
    );
  });
}

const drain = ({ db }: Books) =>
  db.systemTransaction((tx) => drainLeases(tx, { holder: "h", leaseIds: null }));

/** Wait until so many sessions wait for a lock. */
function untilBlocked({ sum, superuser }: Books, sessions: bigint) {
  return until(async () => {
    // Within a transaction one look would be shown again and again.
    await superuser.query("select pg_stat_clear_snapshot()");
    const blocked = await sum(
      `select count(*) as sum from pg_stat_activity
       where datname = current_database() and wait_event_type = 'Lock'`,
    );
    return blocked >= sessions;
  });
}

const fenceOf = ({ sum }: Books, id: string) =>
  sum("select fence as sum from credit_leases where id = $1", [id]);
const headOf = ({ sum }: Books) => sum("select position as sum from journal_head");

test("an append that holds its lease first is before the fence: the drain waits for it", async () => {
  await using books = await openBooks();
  const account = newAccountId(0);
  const id = await lease(books, account, 2n);
  // Another append has the head and takes its time: ours has its lease, and waits for the head.
  await books.superuser.query("begin");
  await books.superuser.query("update journal_head set position = position + 0");
  const pushed = push(books.journal, account, id);
  await untilBlocked(books, 1n);
  const drained = drain(books);
  await untilBlocked(books, 2n);
  await books.superuser.query("commit");

  expect(await pushed).toBe("durable");
  expect(await drained).toBe(1);
  expect([await headOf(books), await fenceOf(books, id)]).toEqual([1n, 1n]);
  await books.project();
  expect(await books.held(account, "consumer")).toBe(price);
  expect(await books.held(account, "lease_escrow")).toBe(0n);
});

test("an append that comes after the drain writes nothing under the lease", async () => {
  await using books = await openBooks();
  const account = newAccountId(0);
  const other = newAccountId(0);
  const [id, others] = [await lease(books, account, 3n), await lease(books, other, 3n)];
  await books.superuser.query("begin");
  await books.superuser.query("select from credit_leases where id = $1 for update", [id]);
  await books.superuser.query(
    "update credit_leases set state = 'draining', fence = position from journal_head where id = $1",
    [id],
  );
  const pushed = [
    push(books.journal, account, id),
    push(books.journal, account, id, false),
    push(books.journal, other, others),
  ];
  await untilBlocked(books, 1n);
  await books.superuser.query("commit");

  expect(await Promise.all(pushed)).toEqual(["LeaseEndedError", "durable", "durable"]);
  expect([await headOf(books), await fenceOf(books, id)]).toEqual([1n, 0n]);
  await books.project();
  // The lenient one was paid from the balance, the other from its own lease.
  expect(await books.held(account, "consumer")).toBe(2n * price);
  expect(await books.held(other, "lease_escrow")).toBe(2n * price);
});

test("what names only leases that are over is refused, and leaves no position behind", async () => {
  await using books = await openBooks();
  const account = newAccountId(0);
  const id = await lease(books, account, 1n);
  await drain(books);

  expect(await push(books.journal, account, id)).toBe("LeaseEndedError");

  expect(await headOf(books)).toBe(0n);
  expect(await push(books.journal, account, "lea_unknown")).toBe("LeaseEndedError");
});

const seed = Number(process.env.CALLORA_TEST_SEED ?? Date.now() % 1_000_000);

test(`strict events are paid by their lease or not there, however appends and drains race (seed ${seed})`, async () => {
  await using books = await openBooks();
  const random = seeded(seed);
  const other = await openDatabase(books.urls);
  const journals = [books.journal, createJournal({ db: other, onAppended: () => {} })] as const;
  const pause = () =>
    new Promise<void>((resolve) => {
      setTimeout(resolve, random() * 8);
    });
  let refused = 0;
  const rounds = 25;
  for (let round = 0; round < rounds; round++) {
    const account = newAccountId(0);
    const id = await lease(books, account, 8n);
    const pushes = Array.from({ length: 8 }, async (_, index) => {
      await pause();
      return push(index % 2 === 0 ? journals[0] : journals[1], account, id);
    });
    const drained = pause().then(() => drain(books));
    const told = await Promise.all(pushes);
    await drained;
    await books.project();

    const written = told.filter((one) => one === "durable").length;
    refused += 8 - written;
    const label = `seed ${seed}, round ${round}`;
    expect(await books.held(account, "consumer"), label).toBe(BigInt(8 - written) * price);
    expect(await books.held(account, "lease_escrow"), label).toBe(0n);
    expect(
      await books.sum("select sum(leased_nanos) as sum from usage_events where account_id = $1", [
        account,
      ]),
      label,
    ).toBe(BigInt(written) * price);
  }
  await other.close();
  expect(refused).toBeGreaterThan(0);
  expect(refused).toBeLessThan(rounds * 8);
});
