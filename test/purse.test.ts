import { randomUUID } from "node:crypto";
import { expect, test } from "vitest";
import { drainLeases } from "../src/credits/lease-end.ts";
import {
  createLeaseBook,
  type LeaseBook,
  type Payer,
  type Shortage,
} from "../src/credits/purse.ts";
import type { Database } from "../src/db/database.ts";
import { openDatabase } from "../src/server.ts";
import { openTestTrust } from "./support/app.ts";
import { newAccountId, openBooks, seeded, usage } from "./support/books.ts";

const price = 1_000n;

type Books = Awaited<ReturnType<typeof openBooks>>;

/** A process with a book, whose clock is set by hand. */
async function openProcess(books: Books, { db = books.db }: { db?: Database } = {}) {
  const clock = { ms: 0 };
  const holder = randomUUID();
  const trust = await openTestTrust(db, books.urls);
  const errors: unknown[] = [];
  const book = createLeaseBook({
    db,
    trust,
    holder,
    shardOf: () => 0,
    nowMs: () => clock.ms,
    onError: (error) => void errors.push(error),
  });
  return {
    book,
    clock,
    holder,
    trust,
    [Symbol.asyncDispose]: () => trust.close(),
  };
}

function payerOf(accountId: string, more: Partial<Payer> = {}): Payer {
  return { accountId, mode: "live", familyId: "key_a", createdBy: "", ...more };
}

async function ask(book: LeaseBook, payer: Payer, nanos = price) {
  const purse = await book.purseOf(payer);
  return purse.take(nanos) ?? (await purse.ask(nanos));
}

async function lease(book: LeaseBook, payer: Payer, nanos = price) {
  const got = await ask(book, payer, nanos);
  if ("availableNanos" in got) {
    throw new Error(`no credit: ${got.availableNanos}`);
  }
  return got;
}

function isShort(outcome: Awaited<ReturnType<typeof ask>>): outcome is Shortage {
  return "availableNanos" in outcome;
}

const stateOf = async ({ superuser }: Books, id: string) =>
  (await superuser.query("select state from credit_leases where id = $1", [id])).rows[0]?.state;

/** Let a lease be over by the database's clock, as it is when its process stood still. */
async function expire({ db, superuser }: Books, id: string): Promise<void> {
  await superuser.query("update credit_leases set expire_at = now() where id = $1", [id]);
  await db.systemTransaction((tx) => drainLeases(tx, { holder: null }));
}

test("two processes, with calls that fail in between, spend no more than there is, and all of it", async () => {
  await using books = await openBooks();
  const account = newAccountId(0);
  await books.grant(account, 50n * price);
  const other = await openDatabase(books.urls);
  await using first = await openProcess(books);
  await using second = await openProcess(books, { db: other });
  const random = seeded(7);
  let running = 0n;
  let spent = 0n;

  await Promise.all(
    Array.from({ length: 300 }, async (_, index) => {
      const nanos = price * BigInt(1 + Math.floor(random() * 3));
      const outcome = await ask(
        index % 2 === 0 ? first.book : second.book,
        payerOf(account),
        nanos,
      );
      if (isShort(outcome)) {
        return;
      }
      running += nanos;
      expect(running + spent).toBeLessThanOrEqual(50n * price);
      await new Promise((resolve) => setImmediate(resolve));
      running -= nanos;
      const isFree = random() < 0.3;
      spent += isFree ? 0n : nanos;
      outcome.release(isFree ? nanos : 0n);
    }),
  );
  await other.close();

  expect(spent).toBeGreaterThan(20n * price);
  expect(spent).toBeLessThanOrEqual(50n * price);
  expect(await books.held(account, "consumer")).toBeGreaterThanOrEqual(0n);
});

test("credit that comes in while calls are being refused is found", async () => {
  await using books = await openBooks();
  const account = newAccountId(0);
  await using process = await openProcess(books);
  const call = () => ask(process.book, payerOf(account));

  const refused = await Promise.all(Array.from({ length: 50 }, call));
  const late = Array.from({ length: 20 }, call);
  await books.grant(account, price);
  const served = await call();
  const others = (await Promise.all(late)).filter((outcome) => !isShort(outcome));

  expect(refused.every(isShort)).toBe(true);
  expect(others.length + (isShort(served) ? 0 : 1)).toBe(1);
});

test("many calls that cannot be paid are answered with few questions, and told what there is", async () => {
  await using books = await openBooks();
  const account = newAccountId(0);
  await books.grant(account, price - 1n);
  let questions = 0;
  const db: Database = {
    ...books.db,
    systemTransaction: (work) => {
      questions += 1;
      return books.db.systemTransaction(work);
    },
  };
  await using process = await openProcess(books, { db });
  await process.book.purseOf(payerOf(account));
  questions = 0;

  const all = Array.from({ length: 500 }, () => ask(process.book, payerOf(account)));
  const outcomes = await Promise.all(all);

  const none = { reservedNanos: 0n, owedNanos: 0n, limitedBy: "balance", budgetId: "" };
  expect(outcomes).toEqual(Array(500).fill({ availableNanos: price - 1n, ...none }));
  expect(questions).toBeLessThanOrEqual(10);
});

test("a lease is renewed while a call runs, however long that takes", async () => {
  await using books = await openBooks();
  const account = newAccountId(0);
  await books.grant(account, 100n * price);
  await using process = await openProcess(books);
  const { book, clock } = process;
  const held = await lease(book, payerOf(account));
  await books.superuser.query("update credit_leases set expire_at = now() + interval '9 s'");

  for (let second = 0; second < 60; second++) {
    clock.ms += 1_000;
    await book.tick();
  }

  expect([held.isLost, await stateOf(books, held.id)]).toEqual([false, "active"]);
  expect(
    await books.sum("select extract(epoch from expire_at - now())::int as sum from credit_leases"),
  ).toBeGreaterThan(9n);
});

test("what nobody uses goes back after two seconds, and later when it was often given back", async () => {
  await using books = await openBooks();
  const account = newAccountId(0);
  await books.grant(account, 100n * price);
  await using process = await openProcess(books);
  const { book, clock } = process;
  const idleMs: number[] = [];

  for (let time = 0; time < 4; time++) {
    const held = await lease(book, payerOf(account));
    clock.ms += 10_000;
    await book.tick();
    expect(await stateOf(books, held.id)).toBe("active");
    held.release(price);
    const begun = clock.ms;
    while ((await stateOf(books, held.id)) === "active") {
      clock.ms += 1_000;
      await book.tick();
    }
    idleMs.push(clock.ms - begun);
    await books.project();
  }

  expect(idleMs).toEqual([2_000, 2_000, 10_000, 10_000]);
  expect(await books.held(account, "consumer")).toBe(100n * price);
  expect(await books.held(account, "lease_escrow")).toBe(0n);
  expect(book.stats().leases).toBe(0);
});

test("a process that stood still finds its lease lost, and its event is not written under it", async () => {
  await using books = await openBooks();
  const account = newAccountId(0);
  await books.grant(account, 100n * price);
  await using process = await openProcess(books);
  const { book, clock } = process;
  const held = await lease(book, payerOf(account));
  await expire(books, held.id);
  await books.project();
  expect(await books.held(account, "consumer")).toBe(100n * price);

  const entry = usage({ account, developer: newAccountId(0), charged: `${price}`, lease: held.id });
  const pushed = await new Promise((resolve) =>
    books.journal.push(
      entry,
      { onDurable: () => resolve("durable"), onRefused: (error) => resolve(error) },
      true,
    ),
  );
  expect(pushed).toMatchObject({ name: "LeaseEndedError" });
  clock.ms += 4_000;
  await book.tick();

  expect(held.isLost).toBe(true);
  expect(book.stats()).toMatchObject({ leases: 0, lost: 1 });
  const next = await lease(book, payerOf(account));
  expect(next.id).not.toBe(held.id);
  expect(await books.sum("select count(*) as sum from usage_journal")).toBe(0n);
});

test("a top-up of a lease that is over opens another one", async () => {
  await using books = await openBooks();
  const account = newAccountId(0);
  await books.grant(account, 100n * price);
  await using process = await openProcess(books);
  const held = await lease(process.book, payerOf(account), price);
  await expire(books, held.id);

  const next = await lease(process.book, payerOf(account), 60n * price);

  expect(held.isLost).toBe(true);
  expect(next.id).not.toBe(held.id);
});

test("the clock of the wall may say what it wants: leases last by the database's", async () => {
  await using books = await openBooks();
  const account = newAccountId(0);
  await books.grant(account, 100n * price);
  await using process = await openProcess(books);
  const { Date: RealDate } = globalThis;
  for (const hours of [-1, 1]) {
    const jumped = () => new RealDate(RealDate.now() + hours * 3_600_000);
    globalThis.Date = new Proxy(RealDate, {
      construct: (_, given) => (given.length === 0 ? jumped() : Reflect.construct(RealDate, given)),
    });
    try {
      const held = await lease(process.book, payerOf(account));
      await books.db.systemTransaction((tx) => drainLeases(tx, { holder: null }));
      expect([held.isLost, await stateOf(books, held.id)]).toEqual([false, "active"]);
    } finally {
      globalThis.Date = RealDate;
    }
  }
});

test("a process that stops gives all back", async () => {
  await using books = await openBooks();
  const accounts = Array.from({ length: 3 }, () => newAccountId(0));
  await using process = await openProcess(books);
  for (const account of accounts) {
    await books.grant(account, 100n * price);
    await lease(process.book, payerOf(account));
  }

  await process.book.stop();
  await books.project();

  for (const account of accounts) {
    expect(await books.held(account, "consumer")).toBe(100n * price);
  }
  await expect(ask(process.book, payerOf(accounts[0] ?? ""))).rejects.toThrow(
    /CREDIT_UNKNOWN|credit/,
  );
});
