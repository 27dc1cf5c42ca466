import { randomUUID } from "node:crypto";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { Code } from "@connectrpc/connect";
import { expect } from "vitest";
import { CreditService } from "../gen/callora/credits/v1/credit_service_pb.ts";
import { LedgerService } from "../gen/callora/ledger/v1/ledger_service_pb.ts";
import { FundingKind, MeteringService } from "../gen/callora/metering/v1/metering_service_pb.ts";
import { SettlementService } from "../gen/callora/settlement/v1/settlement_service_pb.ts";
import { acquireLease } from "../src/credits/leases.ts";
import type { Database } from "../src/db/database.ts";
import { shardCount, shardOf, type UsageEntry } from "../src/metering/entry.ts";
import { createJournal, getWatermark } from "../src/metering/journal.ts";
import { must, until } from "./support/app.ts";
import { grant, newAccountId, projectAll, usage } from "./support/books.ts";
import { newPerson } from "./support/people.ts";
import { test } from "./support/test.ts";

/** Append entries, and wait until they are applied. Returns the position of the last. */
async function record({ db }: { db: Database }, entries: UsageEntry[]): Promise<bigint> {
  const { position } = await createJournal({ db, onAppended: () => {} }).append(entries);
  // The app's own loop may have the shard: then it is the one that applies them.
  await until(async () => {
    await projectAll(db);
    return (await db.systemTransaction(getWatermark)).applied >= position;
  });
  return position;
}

test("a statement shows each movement with the balance after it, page by page, and nobody else's", async ({
  app,
}) => {
  const [me, other] = [await newPerson(app.db), await newPerson(app.db)];
  const { accountId: account } = me;
  const developer = newAccountId();
  await grant(app.db, account, 5_000n);
  await grant(app.db, account, 7n, "test");
  await record(app, [usage({ account, developer, charged: "1200" })]);
  const position = await record(app, [usage({ account, developer, charged: "800" })]);
  const ledger = app.client(LedgerService, me.token);

  const first = await ledger.listEntries({ pageSize: 2 });
  const second = await ledger.listEntries({ pageSize: 2, pageToken: first.nextPageToken });

  expect(first).toMatchObject({
    openingNanos: 0n,
    entries: [
      { counterpartKind: "clearing", amountNanos: 5_000n, balanceNanos: 5_000n },
      { counterpartKind: "clearing", amountNanos: -1_200n, balanceNanos: 3_800n },
    ],
  });
  expect(second).toMatchObject({
    openingNanos: 3_800n,
    nextPageToken: "",
    entries: [{ amountNanos: -800n, balanceNanos: 3_000n, position }],
  });
  expect(second.entries[0]?.source).toMatch(/^usage:\d:\d+-\d+$/);
  expect(second.watermark).toBeGreaterThanOrEqual(position);
  const testMoney = await ledger.listEntries({ test: true });
  expect(testMoney.entries).toMatchObject([{ amountNanos: 7n, balanceNanos: 7n }]);
  const later = timestampFromDate(new Date(Date.now() + 60_000));
  const none = await ledger.listEntries({ startTime: later });
  expect(none).toMatchObject({ openingNanos: 3_000n, entries: [] });
  expect((await ledger.listEntries({ kind: "payable" })).entries).toEqual([]);
  const theirs = app.client(LedgerService, other.token);
  expect((await theirs.listEntries({})).entries).toEqual([]);
  expect((await theirs.listBalances({})).balances).toEqual([]);
  expect((await theirs.listBalances({ position })).balances).toEqual([]);
  // Somebody else's entry is no place to go on from.
  const foreign = await theirs.listEntries({ pageToken: first.nextPageToken });
  expect(foreign).toMatchObject({ entries: [], openingNanos: 0n });
});

test("balances are shown now and as of any position, what is owed as a debt", async ({ app }) => {
  const me = await newPerson(app.db);
  const { accountId: account } = me;
  const developer = newAccountId();
  await grant(app.db, account, 1_000n);
  const first = await record(app, [usage({ account, developer, charged: "400" })]);
  const second = await record(app, [usage({ account, developer, charged: "900" })]);
  const ledger = app.client(LedgerService, me.token);
  const balancesAt = async (position: bigint) => {
    const { balances } = await ledger.listBalances({ position });
    return Object.fromEntries(balances.map(({ kind, balanceNanos }) => [kind, balanceNanos]));
  };

  expect(await balancesAt(0n)).toEqual({ clearing: 300n, consumer: 0n, consumer_receivable: 300n });
  expect(await balancesAt(second)).toEqual(await balancesAt(0n));
  expect(await balancesAt(first)).toEqual({ clearing: -600n, consumer: 600n });
  expect(await balancesAt(first - 1n)).toEqual({ clearing: -1_000n, consumer: 1_000n });
  await expect(ledger.listBalances({ position: second + 1_000n })).rejects.toMatchObject({
    code: Code.FailedPrecondition,
  });
  const to = timestampFromDate(new Date(0));
  await expect(
    ledger.listEntries({ startTime: timestampFromDate(new Date()), endTime: to }),
  ).rejects.toMatchObject({ code: Code.InvalidArgument });
});

test("the watermark is shown with balances, transactions and earnings", async ({ app }) => {
  const me = await newPerson(app.db, "developer");
  const event = usage({ account: me.accountId, developer: me.accountId });
  const position = await record(app, [event]);

  const credits = app.client(CreditService, me.token);
  const answers = [
    await credits.getBalance({}),
    await credits.listTransactions({}),
    await app.client(SettlementService, me.token).getEarnings({}),
  ];

  for (const { watermark } of answers) {
    expect(watermark).toBeGreaterThanOrEqual(position);
  }
});

test("a charge is explained: price, lease, balance, debt, grants and entries add up", async ({
  app,
}) => {
  const me = await newPerson(app.db);
  const { accountId: account } = me;
  const developer = newAccountId();
  await grant(app.db, account, 1_000n);
  await grant(app.db, account, 500n);
  const outcome = await app.db.systemTransaction((tx) =>
    acquireLease(
      tx,
      {
        accountId: account,
        mode: "live",
        holder: randomUUID(),
        wantNanos: 700n,
        leastNanos: 700n,
        shard: shardOf(account, shardCount),
      },
      new Date(),
    ),
  );
  const lease = "lease" in outcome ? outcome.lease.id : "";
  const leased = usage({ account, developer, charged: "600", lease });
  const cut = usage({ account, developer, charged: "1100" });
  const free = usage({ account, developer, charged: "0", status: 503 });
  await record(app, [leased, cut, free]);
  const metering = app.client(MeteringService, me.token);
  const explain = ({ source, id }: UsageEntry) => metering.explainCharge({ source, id });

  const first = await explain(leased);
  expect(first).toMatchObject({
    event: { chargedNanos: 600n, correctedNanos: 0n },
    rating: {
      priceVersion: 1,
      model: "per_call",
      units: 1n,
      tiers: [{ fromUnit: 1n, units: 1n, unitNanos: 600n, amountNanos: 600n }],
      chargedNanos: 600n,
      feeNanos: 60n,
      feeBasisPoints: 1_000,
      reproduced: true,
    },
    funding: [
      { kind: FundingKind.LEASE, sourceId: lease, amountNanos: 600n },
      { kind: FundingKind.GRANT, amountNanos: 600n },
    ],
    entries: [{ debitKind: "lease_escrow", creditKind: "clearing", shareNanos: 600n }],
    corrections: [],
  });
  // 1,500 granted, 700 leased: 800 are left for it, and it goes on in the first grant where the one before ended. The
  // 100 that the lease has left are still there, so they are of the second grant.
  const second = await explain(cut);
  expect(second.funding).toMatchObject([
    { kind: FundingKind.BALANCE, amountNanos: 800n },
    { kind: FundingKind.RECEIVABLE, amountNanos: 300n },
    { kind: FundingKind.GRANT, amountNanos: 400n },
    { kind: FundingKind.GRANT, amountNanos: 400n },
  ]);
  for (const { event, rating, funding, entries } of [first, second]) {
    const paid = funding.filter(({ kind }) => kind !== FundingKind.GRANT);
    const sum = (list: bigint[]) => list.reduce((all, one) => all + one, 0n);
    expect(sum(paid.map(({ amountNanos }) => amountNanos))).toBe(must(event).chargedNanos);
    expect(sum(entries.map(({ shareNanos }) => shareNanos))).toBe(must(event).chargedNanos);
    expect(sum(must(rating).tiers.map(({ amountNanos }) => amountNanos))).toBe(
      must(event).chargedNanos,
    );
  }
  expect(await explain(free)).toMatchObject({
    rating: { model: "free", chargedNanos: 0n, tiers: [], reproduced: true },
    funding: [],
    entries: [],
  });
});

test("nobody explains another's charge", async ({ app }) => {
  const [me, other] = [await newPerson(app.db), await newPerson(app.db)];
  const event = usage({ account: me.accountId, developer: newAccountId() });
  await record(app, [event]);
  const { source, id } = event;

  const theirs = app.client(MeteringService, other.token).explainCharge({ source, id });

  await expect(theirs).rejects.toMatchObject({ code: Code.NotFound });
});
