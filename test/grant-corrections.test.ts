import { expect, test } from "vitest";
import { addCredit, type NewCredit, promotionMoney } from "../src/credits/credit.ts";
import { expireNext } from "../src/credits/expiry.ts";
import { platformAccountId } from "../src/ledger/store.ts";
import { newId } from "../src/lib/id.ts";
import type { CorrectionEntry } from "../src/metering/entry.ts";
import { newAccountId, openBooks, seeded, usage } from "./support/books.ts";
import { left } from "./support/grant.ts";

type Books = Awaited<ReturnType<typeof openBooks>>;
type Usage = ReturnType<typeof usage>;

const developer = newAccountId();
const chain = { accountId: platformAccountId, kind: "chain" } as const;

test("an event that is to cost more burns what it would have burned", async () => {
  await using books = await openBooks();
  const account = newAccountId();
  await give(books, account, { name: "bought", kind: "purchase", priority: 70, from: chain });
  await give(books, account, { name: "ends", expireAt: inAnHour() });
  const event = await use(books, account, 2n);

  await correct(books, event, 7n);

  expect(await left(books, account)).toEqual({ ends: 3n, bought: 10n });
  await expireAll(books, account);
  expect(await books.held(account, "consumer")).toBe(10n);
  expect(await left(books, account)).toEqual({ ends: 0n, bought: 10n });
});

test("what a correction gives back goes to the grants that the event burned, the last first", async () => {
  await using books = await openBooks();
  const account = newAccountId();
  await give(books, account, { name: "bought", kind: "purchase", priority: 70, from: chain });
  await give(books, account, { name: "ends", expireAt: inAnHour() });
  await use(books, account, 3n);
  const event = await use(books, account, 9n);
  expect(await left(books, account)).toEqual({ ends: 0n, bought: 8n });

  await correct(books, event, 8n);
  expect(await left(books, account)).toEqual({ ends: 0n, bought: 9n });
  await correct(books, event, 10n);
  expect(await left(books, account)).toEqual({ ends: 0n, bought: 7n });
  await correct(books, event, null);

  expect(await left(books, account)).toEqual({ ends: 7n, bought: 10n });
  // What a promotion gave is no money: it ends with it.
  await expireAll(books, account);
  expect(await books.held(account, "consumer")).toBe(10n);
});

test("what was owed, and burned nothing, is a grant of its own once it comes back", async () => {
  await using books = await openBooks();
  const account = newAccountId();
  await give(books, account, { name: "first" });
  const event = await use(books, account, 15n);
  await give(books, account, { name: "second" });
  expect(await left(books, account)).toEqual({ first: 0n, second: 5n });

  await correct(books, event, null);

  const given = { first: 10n, second: 5n, "Given back by a correction": 5n };
  expect(await left(books, account)).toEqual(given);
  expect(await books.held(account, "consumer")).toBe(20n);
});

test("what pays a debt with what a correction gives back is left to no grant", async () => {
  await using books = await openBooks();
  const account = newAccountId();
  await give(books, account, { name: "first" });
  const event = await use(books, account, 10n);
  await use(books, account, 4n);

  await correct(books, event, null);

  expect(await left(books, account)).toEqual({ first: 6n });
  expect(await books.held(account, "consumer")).toBe(6n);
  expect(await books.held(account, "consumer_receivable")).toBe(0n);
});

test("grants hold what the balance has, whatever is granted, used and corrected", async () => {
  const seed = Math.floor(Math.random() * 2 ** 31);
  await using books = await openBooks();
  const random = seeded(seed);
  const pick = (count: number) => Math.floor(random() * count);
  const account = newAccountId();
  const events: Usage[] = [];
  for (let step = 0; step < 60; step++) {
    const [event, dice] = [events[pick(events.length)], random()];
    if (dice < 0.25) {
      const priority = pick(3);
      await give(books, account, { name: `g${step}`, amountNanos: BigInt(1 + pick(40)), priority });
    } else if (dice < 0.6 || event === undefined) {
      events.push(await use(books, account, BigInt(1 + pick(30))));
    } else {
      const isVoid = random() < 0.2;
      await correct(books, event, isVoid ? null : BigInt(pick(30)));
      if (isVoid) {
        events.splice(events.indexOf(event), 1);
      }
    }
    const sum = await books.sum(
      `select sum(amount_nanos - burned_nanos - returned_nanos) as sum from credit_grants
       where account_id = $1`,
      [account],
    );
    expect(sum, `seed ${seed}, step ${step}`).toBe(await books.held(account, "consumer"));
  }
  expect(await books.sum("select count(*) as sum from usage_quarantine")).toBe(0n);
});

const inAnHour = () => new Date(Date.now() + 3_600_000);

async function give(
  books: Books,
  accountId: string,
  { name, ...of }: { name: string } & Partial<NewCredit>,
): Promise<void> {
  const now = new Date();
  const credit: NewCredit = {
    accountId,
    mode: "live",
    grantId: newId("grt", now),
    kind: "promotion",
    amountNanos: 10n,
    from: promotionMoney,
    priority: 50,
    expireAt: null,
    purchaseId: "",
    note: name,
    ...of,
  };
  await books.db.systemTransaction((tx) => addCredit(tx, credit, now));
}

async function use(books: Books, account: string, nanos: bigint): Promise<Usage> {
  const event = usage({ account, developer, charged: String(nanos) });
  await books.journal.append([event]);
  await books.project();
  return event;
}

/** Say what an event costs. Null: it is taken back. */
async function correct(
  books: Books,
  { account, source, id }: Usage,
  nanos: bigint | null,
): Promise<void> {
  const entry: CorrectionEntry = {
    kind: nanos === null ? "void" : "adjust",
    account,
    source,
    id,
    correctionId: newId("cor", new Date()),
    adjustedNanos: nanos ?? 0n,
    reason: "a test",
  };
  await books.journal.append([entry]);
  await books.project();
}

/** Let the grant that ends end now. */
async function expireAll(books: Books, account: string): Promise<void> {
  await books.superuser.query(
    "update credit_grants set expire_at = now() - interval '1 s' where account_id = $1 and note = 'ends'",
    [account],
  );
  await books.db.systemTransaction((tx) => expireNext(tx, { now: new Date(), appliedUntil: null }));
}
