import { Asset, Operation } from "@stellar/stellar-sdk/base";
import { expect, test } from "vitest";
import { checkConservation } from "../src/conservation.ts";
import { acquireLease } from "../src/credits/leases.ts";
import { newId } from "../src/lib/id.ts";
import { decodeRow, encodeRow } from "../src/metering/codec.ts";
import { shardCount, shardOf } from "../src/metering/entry.ts";
import { openDatabase } from "../src/server.ts";
import { settleNext } from "../src/settlement/loop.ts";
import { startRun } from "../src/settlement/run.ts";
import { must } from "./support/app.ts";
import { newAccountId, openBooksAndNetwork, projectAll, seeded, usage } from "./support/books.ts";
import { act, newPayee, settleAll } from "./support/payees.ts";

type Books = Awaited<ReturnType<typeof openBooksAndNetwork>>;

const now = () => new Date();

/** Books in which everything has happened: promotion, leases, debts, conflicts, test money, payouts and holds. */
async function openUsedBooks() {
  const books = await openBooksAndNetwork();
  const [rich, poor] = [newAccountId(), newAccountId()];
  const [paid, unpaid] = [newAccountId(), newAccountId()];
  await books.grant(rich, 1_000_000n);
  await books.grant(rich, 5_000n, "test");
  const outcome = await books.db.systemTransaction((tx) =>
    acquireLease(
      tx,
      {
        accountId: rich,
        mode: "live",
        holder: "h",
        wantNanos: 50_000n,
        leastNanos: 1n,
        shard: shardOf(rich, shardCount),
      },
      now(),
    ),
  );
  const lease = "lease" in outcome ? outcome.lease.id : null;
  const twice = usage({ account: rich, developer: paid, lease, charged: "1234" });
  await books.journal.append([
    twice,
    twice,
    { ...twice, mode: "test" },
    usage({ account: rich, developer: paid, charged: "100000" }),
    usage({ account: poor, developer: unpaid, charged: "77777" }),
    usage({ account: rich, developer: paid, mode: "test", charged: "999" }),
  ]);
  await books.plant(Buffer.from('{"no": "event"}'), { codec: 0 });
  await books.project();
  const payee = await newPayee(books.network);
  const missing = await newPayee(books.network, { exists: false });
  await books.superuser.query("insert into payout_addresses values ($1, $2), ($3, $4)", [
    paid,
    payee.publicKey(),
    unpaid,
    missing.publicKey(),
  ]);
  await books.db.systemTransaction((tx) => startRun(tx, 0n, now()));
  await settleAll({ ...books, now });
  return Object.assign(books, { payee, paid });
}

async function broken(books: Books): Promise<string[]> {
  const { ok, checks } = await books.conservation();
  const names = checks.filter((check) => !check.ok).map(({ name }) => name);
  expect(ok).toBe(names.length === 0);
  return names;
}

test("nothing is missing after all that can happen, and what was tampered with is named", async () => {
  await using books = await openUsedBooks();
  expect(await broken(books)).toEqual([]);
  const { checks } = await books.conservation();
  const sums = new Map(checks.map(({ name, leftNanos }) => [name, leftNanos]));
  // Not sums of nothing.
  expect(sums.get("charges of events = consumer charges")).toBe(179_011n);
  expect(sums.get("charges of events = consumer charges (test)")).toBe(999n);
  expect(sums.get("payouts in the ledger = payouts on the chain")).toBeGreaterThan(0n);
  expect(sums.get("escrow in the ledger = what is left of open leases")).toBe(48_766n);

  for (const { what, sql, names } of tampers) {
    await books.superuser.query(
      `begin; set local session_replication_role = replica; ${sql}; commit`,
    );
    expect(await broken(books), what).toEqual(names);
    await books.superuser.query(
      `begin; set local session_replication_role = replica; ${undo(sql)}; commit`,
    );
    expect(await broken(books), `${what}, undone`).toEqual([]);
  }
});

/** The same change the other way round. */
function undo(sql: string): string {
  return sql.replaceAll(" + 100 ", " - 100 ");
}

const tampers: { what: string; sql: string; names: string[] }[] = [
  {
    what: "a consumer's balance",
    sql:
      "update ledger_accounts set credits_nanos = credits_nanos + 100 " +
      "where kind = 'consumer' and mode = 'live'",
    names: ["balances that differ from their transfers = none"],
  },
  {
    what: "a test balance",
    sql:
      "update ledger_accounts set credits_nanos = credits_nanos + 100 " +
      "where kind = 'consumer' and mode = 'test'",
    names: ["balances that differ from their transfers = none (test)"],
  },
  {
    what: "both sides of a balance at once",
    sql:
      "update ledger_accounts set credits_nanos = credits_nanos + 100 , debits_nanos = debits_nanos + 100 " +
      "where kind = 'payable' and mode = 'live'",
    names: ["balances that differ from their transfers = none"],
  },
  {
    what: "a transfer",
    sql:
      "update ledger_transfers set amount_nanos = amount_nanos + 100 " +
      "where source_type = 'grant' and mode = 'live' and credit_kind = 'consumer'",
    names: ["balances that differ from their transfers = none"],
  },
  {
    what: "an event",
    sql:
      "update usage_events set charged_nanos = charged_nanos + 100 " +
      "where charged_nanos in (77777, 77877)",
    names: ["charges of events = consumer charges"],
  },
  {
    what: "a consumer's roll-up",
    sql: "update usage_rollups set charged_nanos = charged_nanos + 100 where mode = 'live'",
    names: ["charges in usage roll-ups = consumer charges"],
  },
  {
    what: "a developer's roll-up",
    sql: "update revenue_rollups set revenue_nanos = revenue_nanos + 100 where mode = 'test'",
    names: ["revenue in roll-ups = consumer charges (test)"],
  },
  {
    what: "a lease",
    sql: "update credit_leases set amount_nanos = amount_nanos + 100 where true",
    names: ["escrow in the ledger = what is left of open leases"],
  },
  {
    what: "a payout",
    sql: "update payouts set amount_nanos = amount_nanos + 100 where state = 'paid'",
    names: ["payouts in the ledger = payouts that are paid"],
  },
];

test("an event that was taken out of the journal, or put into it, is missed", async () => {
  await using books = await openUsedBooks();
  const { rows } = await books.superuser.query("select position, codec, body from usage_journal");
  const left = rows.flatMap((row) => {
    const entries = decodeRow(row).entries.filter((entry) => entry.kind !== "malformed");
    const kept = entries.filter((one) => !("chargedNanos" in one && one.chargedNanos === 100_000n));
    return kept.length === entries.length ? [] : [{ row, body: encodeRow(kept) }];
  });
  expect(left).toHaveLength(1);

  await books.superuser.query("set session_replication_role = replica");
  await books.superuser.query("update usage_journal set body = $1 where position = $2", [
    left[0]?.body,
    left[0]?.row.position,
  ]);

  expect(await broken(books)).toEqual(["charges in the journal = consumer charges"]);
});

test("the sums agree when events are taken back or charged otherwise, before and after their payout", async () => {
  await using books = await openUsedBooks();
  const { rows } = await books.superuser.query<{ account: string; id: string; mode: string }>(
    "select account_id as account, id, mode from usage_events order by charged_nanos desc, id",
  );
  const corrections = rows.map(({ account, id }, index) => ({
    kind: index % 2 === 0 ? ("void" as const) : ("adjust" as const),
    account,
    source: "test",
    id,
    correctionId: newId("cor", now()),
    adjustedNanos: index % 2 === 0 ? 0n : 500n,
    reason: "wrong",
  }));

  await books.db.systemTransaction((tx) => books.journal.appendIn(tx, corrections));
  await books.project();

  expect(corrections.length).toBeGreaterThan(3);
  expect(await broken(books)).toEqual([]);
});

test("a payment that was made by hand from the treasury is missed", async () => {
  await using books = await openUsedBooks();
  const { network, payee } = books;
  const asset = new Asset(network.asset.code, network.asset.issuer);

  await act(network, network.treasury, [
    Operation.payment({ destination: payee.publicKey(), asset, amount: "0.0000001" }),
  ]);

  expect(await broken(books)).toEqual([
    "treasury in the ledger = treasury on the chain + payouts of open slots - deposits to come",
  ]);
});

test("a payout whose transaction never was is missed", async () => {
  await using books = await openUsedBooks();

  await books.superuser.query(
    `update payouts set transaction_hash = '${"0".repeat(64)}' where state = 'paid'`,
  );

  expect(await broken(books)).toEqual(["payouts in the ledger = payouts on the chain"]);
});

test("the sums agree at every moment while calls, leases and payouts go on", {
  timeout: 120_000,
}, async () => {
  await using books = await openUsedBooks();
  const { network, paid } = books;
  const random = seeded(11);
  const worker = await openDatabase(books.urls);
  const accounts = [newAccountId(), newAccountId()];
  let isDone = false;

  const using = (async () => {
    for (let round = 0; round < 40; round++) {
      const account = must(accounts[round % 2]);
      await books.grant(account, 10_000n);
      await books.journal.append(
        Array.from({ length: 1 + Math.floor(random() * 5) }, () =>
          usage({ account, developer: paid, charged: String(Math.floor(random() * 5_000)) }),
        ),
      );
      await projectAll(worker);
      if (round % 10 === 5) {
        await worker.systemTransaction((tx) => startRun(tx, 0n, now())).catch(() => {});
      }
      await settleNext({ db: worker, network, now }).catch(() => {});
    }
    await settleAll({ db: worker, network, now });
  })().finally(() => {
    // Also when it failed, which is told below.
    isDone = true;
  });
  using.catch(() => {});
  let looks = 0;
  while (!isDone) {
    const { checks } = await checkConservation({ db: books.db, network });
    const wrong = checks.filter(({ ok, name }) => !ok && !name.includes("chain"));
    expect(wrong).toEqual([]);
    looks += 1;
  }
  await using;
  await worker.close();

  expect(looks).toBeGreaterThan(3);
  expect(await broken(books)).toEqual([]);
});
