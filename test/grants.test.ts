import { randomUUID } from "node:crypto";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { Code } from "@connectrpc/connect";
import { expect, test as plain } from "vitest";
import { CreditService, TransactionType } from "../gen/callora/credits/v1/credit_service_pb.ts";
import { FundingKind, MeteringService } from "../gen/callora/metering/v1/metering_service_pb.ts";
import { addCredit, type NewCredit, promotionMoney } from "../src/credits/credit.ts";
import { expireNext } from "../src/credits/expiry.ts";
import { drainLeases } from "../src/credits/lease-end.ts";
import { acquireLease } from "../src/credits/leases.ts";
import type { Mode } from "../src/ledger/store.ts";
import { newId } from "../src/lib/id.ts";
import { shardCount, shardOf } from "../src/metering/entry.ts";
import { until } from "./support/app.ts";
import { newAccountId, openBooks, projectAll, seeded, usage } from "./support/books.ts";
import { left } from "./support/grant.ts";
import { newPerson } from "./support/people.ts";
import { test } from "./support/test.ts";

type Books = Awaited<ReturnType<typeof openBooks>>;

const developer = newAccountId();

plain("the lowest priority burns first, of equals what ends first, then the oldest", async () => {
  await using books = await openBooks();
  const account = newAccountId();
  const far = new Date(Date.now() + 86_400_000);
  await give(books, account, { name: "old", amountNanos: 10n });
  await give(books, account, { name: "young", amountNanos: 10n });
  await give(books, account, { name: "ends", amountNanos: 10n, expireAt: far });
  await give(books, account, { name: "first", amountNanos: 10n, priority: 1 });
  await use(books, account, [15n, 15n, 5n]);

  expect(await left(books, account)).toEqual({ first: 0n, ends: 0n, old: 0n, young: 5n });
  expect(await burns(books, account)).toEqual([
    ["first", 0n, 10n],
    ["ends", 10n, 20n],
    ["old", 20n, 30n],
    ["young", 30n, 35n],
  ]);
});

plain("credit pays what is owed first, and is burned by that", async () => {
  await using books = await openBooks();
  const account = newAccountId();
  await give(books, account, { name: "small", amountNanos: 4n });
  await use(books, account, [10n]);
  expect(await books.held(account, "consumer_receivable")).toBe(-6n);
  await give(books, account, { name: "part", amountNanos: 5n });
  await give(books, account, { name: "rest", amountNanos: 5n });

  expect(await left(books, account)).toEqual({ small: 0n, part: 0n, rest: 4n });
  expect(await books.held(account, "consumer")).toBe(4n);
  expect(await books.held(account, "consumer_receivable")).toBe(0n);
  await use(books, account, [3n]);
  // What was owed is in no burn: the credit came later.
  expect(await burns(books, account)).toEqual([
    ["small", 0n, 4n],
    ["rest", 10n, 13n],
  ]);
});

plain(
  "however usage is cut into batches, the same grants burn, and what is left is there",
  {
    timeout: 60_000,
  },
  async () => {
    const seed = Math.floor(Math.random() * 2 ** 31);
    await using books = await openBooks();
    const random = seeded(seed);
    const pick = (count: number) => Math.floor(random() * count);
    const begun = Date.now();
    const accounts = [newAccountId(0), newAccountId(0)];
    const plan = {
      grants: Array.from({ length: 150 }, () => ({
        amountNanos: BigInt(1 + pick(30)),
        priority: pick(4),
      })),
      charges: Array.from({ length: 120 }, () => BigInt(1 + pick(25))),
    };
    for (const [index, account] of accounts.entries()) {
      for (const [number, one] of plan.grants.entries()) {
        await give(books, account, { name: `g${number}`, at: new Date(begun + number), ...one });
      }
      const events = plan.charges.map((nanos) => charge(account, nanos));
      for (let at = 0; at < events.length; at += 10) {
        await books.journal.append(events.slice(at, at + 10));
      }
      await projectAll(books.db, new Date(), { entriesMax: index === 0 ? 5_000 : 10 });
    }

    const [all, few] = [
      await burns(books, accounts[0] ?? ""),
      await burns(books, accounts[1] ?? ""),
    ];
    expect(few, `seed ${seed}`).toEqual(all);
    expect(all.length, `seed ${seed}`).toBeGreaterThan(50);
    for (const account of accounts) {
      const sum = Object.values(await left(books, account)).reduce((a, b) => a + b, 0n);
      expect(sum, `seed ${seed}`).toBe(await books.held(account, "consumer"));
    }
  },
);

plain(
  "what is left of a grant is taken at its end, and what a lease holds once it is back",
  async () => {
    await using books = await openBooks();
    const account = newAccountId();
    const end = new Date(Date.now() + 3_600_000);
    await give(books, account, { name: "ends", amountNanos: 100n, expireAt: end });
    await give(books, account, { name: "stays", amountNanos: 50n });
    await use(books, account, [10n]);
    const lease = await leaseOf(books, account, 100n);
    const before = await books.held(platform, "promotion_expense");

    expect(await expire(books)).toBe(false);
    expect(await left(books, account)).toEqual({ ends: 90n, stays: 50n });
    // What is not set aside is taken at once.
    await setEnd(books, account, "ends", new Date(Date.now() - 1));
    await expire(books);
    expect(await books.held(account, "consumer")).toBe(0n);
    expect(await left(books, account)).toEqual({ ends: 50n, stays: 50n });
    await expire(books);
    expect(await left(books, account)).toEqual({ ends: 50n, stays: 50n });
    // The lease pays for something that is received after the end: money is money, and the other grant burns.
    await books.journal.append([{ ...charge(account, 20n), lease }]);
    await books.project();
    await books.db.systemTransaction((tx) => drainLeases(tx, { holder: "test", leaseIds: null }));
    await books.project();
    expect(await books.held(account, "lease_escrow")).toBe(0n);
    await expire(books);

    expect(await left(books, account)).toEqual({ ends: 0n, stays: 30n });
    expect(await books.held(account, "consumer")).toBe(30n);
    expect(await books.held(platform, "promotion_expense")).toBe(before + 90n);
  },
);

plain("what was spent after a grant's end counts as burned", async () => {
  await using books = await openBooks();
  const account = newAccountId();
  const end = new Date(Date.now() + 3_600_000);
  await give(books, account, { name: "ends", amountNanos: 100n, expireAt: end });
  await setEnd(books, account, "ends", new Date(Date.now() - 1));
  await use(books, account, [100n]);
  expect(await left(books, account)).toEqual({ ends: 100n });

  await expire(books);

  expect(await left(books, account)).toEqual({ ends: 0n });
  expect(await burns(books, account)).toEqual([]);
  expect(
    await books.sum("select burned_nanos as sum from credit_grants where account_id = $1", [
      account,
    ]),
  ).toBe(100n);
});

plain("a grant does not end before what was received until then is applied", async () => {
  await using books = await openBooks();
  const account = newAccountId();
  const end = new Date(Date.now() - 1_000);
  await give(books, account, { name: "ends", amountNanos: 100n, expireAt: end });

  await expire(books, { appliedUntil: new Date(end.getTime() - 1) });

  expect(await left(books, account)).toEqual({ ends: 100n });
});

plain("a process whose clock is ahead ends nothing before its time", async () => {
  await using books = await openBooks();
  const account = newAccountId();
  const end = new Date(Date.now() + 3_600_000);
  await give(books, account, { name: "ends", amountNanos: 100n, expireAt: end });
  const now = new Date(end.getTime() + 3_600_000);

  await expire(books, { now });
  await expire(books, { now, appliedUntil: now });

  expect(await left(books, account)).toEqual({ ends: 100n });
  expect(await books.held(account, "consumer")).toBe(100n);
});

plain(
  "ends, charges and grants at once lose nothing, and wait for none",
  {
    timeout: 60_000,
  },
  async () => {
    await using books = await openBooks();
    const account = newAccountId();
    const end = new Date(Date.now() - 1);
    const work = Array.from({ length: 20 }, async (_, index) => {
      await give(books, account, {
        name: `g${index}`,
        amountNanos: 10n,
        expireAt: index % 2 === 0 ? end : null,
      });
      await books.journal.append([charge(account, 3n)]);
      await Promise.all([expire(books), projectAll(books.db)]);
    });
    await Promise.all(work);
    await books.project();
    while ((await expire(books)) || (await books.held(account, "lease_escrow")) !== 0n) {}

    const granted = 200n;
    const returned = await books.sum(
      "select sum(returned_nanos) as sum from credit_grants where account_id = $1",
      [account],
    );
    const held = await books.held(account, "consumer");
    const owed = await books.held(account, "consumer_receivable");
    expect(held + owed).toBe(granted - 60n - returned);
    const sum = Object.values(await left(books, account)).reduce((a, b) => a + b, 0n);
    expect(sum).toBe(held);
    expect(
      await books.sum(
        "select deadlocks as sum from pg_stat_database where datname = current_database()",
      ),
    ).toBe(0n);
  },
);

test("grants are listed as they burn, page by page; used ones when asked for", async ({ app }) => {
  const [admin, me] = [await newPerson(app.db, "admin"), await newPerson(app.db)];
  const { accountId } = me;
  const giver = app.client(CreditService, admin.token);
  const end = new Date(Date.now() + 3_600_000);
  const expireTime = timestampFromDate(end);
  for (const one of [
    { note: "plain" },
    { note: "ends", expireTime },
    { note: "last", priority: 90 },
    { note: "first", priority: 2 },
  ]) {
    await giver.grantCredits({ accountId, amountNanos: 100n, ...one });
  }
  const api = await app.api(await newPerson(app.db, "developer"), { callNanos: 130n });
  const event = { source: "urn:x", id: randomUUID(), accountId, apiId: api.id };
  await app.client(MeteringService, (await app.admin()).token).recordUsage({ events: [event] });
  await app.applied();
  const credits = app.client(CreditService, me.token);

  const list = async (includeUsed: boolean) => {
    const seen: [string, bigint][] = [];
    let pageToken = "";
    do {
      const page = await credits.listGrants({ pageSize: 1, pageToken, includeUsed });
      seen.push(
        ...page.grants.map(({ note, burnedNanos }): [string, bigint] => [note, burnedNanos]),
      );
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
    return seen;
  };
  expect(await list(false)).toEqual([
    ["ends", 30n],
    ["plain", 0n],
    ["last", 0n],
  ]);
  expect(await list(true)).toEqual([
    ["first", 100n],
    ["ends", 30n],
    ["plain", 0n],
    ["last", 0n],
  ]);
  expect((await credits.getBalance({})).balance).toMatchObject({
    availableNanos: 270n,
    grantedNanos: 400n,
    chargedNanos: 130n,
    promotionalNanos: 270n,
    nextExpireTime: expireTime,
    nextExpireNanos: 70n,
  });
  const { funding } = await app.client(MeteringService, me.token).explainCharge(event);
  const { grants } = await credits.listGrants({ includeUsed: true });
  expect(funding).toMatchObject([
    { kind: FundingKind.BALANCE, amountNanos: 130n },
    { kind: FundingKind.GRANT, amountNanos: 100n, sourceId: grants[0]?.id },
    { kind: FundingKind.GRANT, amountNanos: 30n, sourceId: grants[1]?.id },
  ]);
});

test("a grant that ends is in the history, with the balance after each", async ({ app }) => {
  const [admin, me] = [await newPerson(app.db, "admin"), await newPerson(app.db)];
  const { accountId } = me;
  const giver = app.client(CreditService, admin.token);
  const endMs = Date.now() + 6_000;
  const { grant } = await giver.grantCredits({
    accountId,
    amountNanos: 100n,
    note: "for a while",
    expireTime: timestampFromDate(new Date(endMs)),
  });
  await giver.grantCredits({ accountId, amountNanos: 7n });
  const credits = app.client(CreditService, me.token);

  // Asking all the time would meet the rate limit.
  await until(() => Date.now() > endMs);
  await until(async () => (await credits.getBalance({})).balance?.availableNanos === 7n);

  const { transactions } = await credits.listTransactions({});
  const shown = transactions.map(({ type, amountNanos, balanceNanos }) => [
    type,
    amountNanos,
    balanceNanos,
  ]);
  expect(shown).toEqual([
    [TransactionType.EXPIRY, -100n, 7n],
    [TransactionType.GRANT, 7n, 107n],
    [TransactionType.GRANT, 100n, 100n],
  ]);
  expect(transactions[0]).toMatchObject({ grantId: grant?.id, description: "for a while" });
  const { transactions: ends } = await credits.listTransactions({ type: TransactionType.EXPIRY });
  expect(ends).toEqual([transactions[0]]);
  const grants = { type: TransactionType.GRANT, pageSize: 1 };
  const first = await credits.listTransactions(grants);
  const rest = await credits.listTransactions({ ...grants, pageToken: first.nextPageToken });
  expect([...first.transactions, ...rest.transactions]).toEqual(transactions.slice(1));
});

test("a grant that has ended already is refused", async ({ app }) => {
  const [admin, me] = [await newPerson(app.db, "admin"), await newPerson(app.db)];
  const expireTime = timestampFromDate(new Date(Date.now() - 1));
  const grant = { accountId: me.accountId, amountNanos: 1n, expireTime };

  const outcome = app.client(CreditService, admin.token).grantCredits(grant);

  await expect(outcome).rejects.toThrow("expire_time");
});

test("everybody grants himself test credit, up to a limit, and none of it is real", async ({
  app,
}) => {
  const me = await newPerson(app.db);
  const credits = app.client(CreditService, me.token);
  const amountNanos = 10_000_000_000_000n;
  for (let count = 0; count < 10; count++) {
    await credits.grantTestCredits({ amountNanos });
  }

  const outcome = credits.grantTestCredits({ amountNanos: 1n });

  await expect(outcome).rejects.toMatchObject({ code: Code.FailedPrecondition });
  await expect(outcome).rejects.toThrow("Cannot grant test credit");
  expect((await credits.getBalance({})).balance).toMatchObject({ availableNanos: 0n });
});

const platform = `acc_${"0".repeat(26)}`;

async function give(
  books: Books,
  accountId: string,
  {
    name,
    at = new Date(),
    ...of
  }: { name: string; at?: Date; mode?: Mode } & Pick<NewCredit, "amountNanos"> & Partial<NewCredit>,
): Promise<void> {
  const credit: NewCredit = {
    accountId,
    mode: "live",
    grantId: newId("grt", at),
    kind: "promotion",
    from: promotionMoney,
    priority: 50,
    expireAt: null,
    purchaseId: "",
    note: name,
    ...of,
  };
  await books.db.systemTransaction((tx) => addCredit(tx, credit, at));
}

const charge = (account: string, nanos: bigint) =>
  usage({ account, developer, charged: String(nanos) });

/** Charge an account. */
async function use(books: Books, account: string, charges: bigint[]): Promise<void> {
  await books.journal.append(charges.map((nanos) => charge(account, nanos)));
  await books.project();
}

function expire(
  books: Books,
  { now = new Date(), appliedUntil = null }: { now?: Date; appliedUntil?: Date | null } = {},
): Promise<boolean> {
  return books.db.systemTransaction((tx) => expireNext(tx, { now, appliedUntil }));
}

/** Move a grant's end, past what the server does. */
async function setEnd(books: Books, account: string, name: string, end: Date): Promise<void> {
  await books.superuser.query(
    "update credit_grants set expire_at = $3 where account_id = $1 and note = $2",
    [account, name, end],
  );
}

async function leaseOf(books: Books, accountId: string, nanos: bigint): Promise<string> {
  const wanted = {
    accountId,
    mode: "live",
    holder: "test",
    wantNanos: nanos,
    leastNanos: nanos,
    shard: shardOf(accountId, shardCount),
  } as const;
  const outcome = await books.db.systemTransaction((tx) => acquireLease(tx, wanted, new Date()));
  if (!("lease" in outcome)) {
    throw new Error("no lease");
  }
  return outcome.lease.id;
}

async function burns(books: Books, account: string): Promise<[string, bigint, bigint][]> {
  const { rows } = await books.superuser.query<{ note: string; start: string; stop: string }>(
    `select note, from_nanos as start, to_nanos as stop from grant_burns as burn
     join credit_grants as credit on credit.account_id = burn.account_id and id = grant_id
     where burn.account_id = $1 order by from_nanos`,
    [account],
  );
  return rows.map(({ note, start, stop }) => [note, BigInt(start), BigInt(stop)]);
}
