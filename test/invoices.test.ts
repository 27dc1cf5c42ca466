import { Code } from "@connectrpc/connect";
import { expect } from "vitest";
import { CatalogService } from "../gen/callora/catalog/v1/catalog_service_pb.ts";
import {
  type Invoice,
  InvoiceService,
  InvoiceState,
} from "../gen/callora/credits/v1/invoice_service_pb.ts";
import { CorrectionService } from "../gen/callora/metering/v1/correction_service_pb.ts";
import { MeteringService } from "../gen/callora/metering/v1/metering_service_pb.ts";
import { listApiNames } from "../src/catalog/names.ts";
import { issueInvoices } from "../src/credits/invoice-loop.ts";
import { getInvoice } from "../src/credits/invoice-service.ts";
import { addToMonths, type CreditMove } from "../src/credits/month-store.ts";
import type { Tx } from "../src/db/pool.ts";
import {
  between,
  type Kind,
  type Mode,
  platformAccountId,
  postTransfers,
} from "../src/ledger/store.ts";
import { newId } from "../src/lib/id.ts";
import { listBillLines } from "../src/metering/bill-lines.ts";
import type { UsageEntry } from "../src/metering/entry.ts";
import { getWatermark } from "../src/metering/journal.ts";
import { closeEndedPeriods, closePeriods } from "../src/metering/periods.ts";
import { findClosedMonths } from "../src/metering/totals.ts";
import { must } from "./support/app.ts";
import { newAccountId, newApiId, openBooks, seeded, usage } from "./support/books.ts";
import { test } from "./support/test.ts";

type Books = Awaited<ReturnType<typeof openBooks>>;

function sourcesOf({ db }: Books, now: Date) {
  return {
    db,
    listLines: listBillLines,
    listApiNames,
    findClosedMonths,
    watermark: async (tx: Tx) => (await getWatermark(tx)).applied,
    onFailed: (error: unknown) => {
      throw error;
    },
    now: () => now,
  };
}

async function issueAll(books: Books, now: Date): Promise<void> {
  while (await issueInvoices(sourcesOf(books, now))) {}
}

/** Credit that comes to an account at a time, or goes from it. */
function move(
  { db }: Books,
  of: { accountId: string; mode: Mode; type: string; amountNanos: bigint },
  now: Date,
) {
  const { accountId, mode, type, amountNanos } = of;
  const source = { type, id: newId("x", new Date()) };
  const consumer = { accountId, kind: "consumer" } as const;
  const platform = { accountId: platformAccountId, kind: "promotion_expense" } as const;
  const amount = { mode, source, amountNanos: amountNanos < 0n ? -amountNanos : amountNanos };
  const refund = {
    accountId,
    debit: "consumer",
    credit: "refund_payable" as Kind,
    ...amount,
  } as const;
  const moves =
    type === "refund"
      ? [refund]
      : amountNanos > 0n
        ? between(platform, consumer, amount)
        : between(consumer, platform, amount);
  const nanos = amount.amountNanos;
  const whats = { grant: "granted", purchase: "granted", expiry: "expired", refund: "refunded" };
  const adjusted = amountNanos > 0n ? "given" : "taken";
  const what = (whats as Record<string, CreditMove["what"]>)[type] ?? adjusted;
  return db.systemTransaction(async (tx) => {
    await postTransfers(tx, moves, now);
    await addToMonths(tx, [{ accountId, mode, what, nanos }], now);
  });
}

/** What must hold of any invoice. */
function expectSums(invoice: Invoice) {
  const lines = invoice.lines.reduce((sum, one) => sum + one.chargedNanos + one.correctedNanos, 0n);
  expect(invoice.chargedNanos).toBe(lines);
  const { openingNanos, creditedNanos, adjustedNanos, expiredNanos, refundedNanos } = invoice;
  expect(invoice.closingNanos).toBe(
    openingNanos + creditedNanos + adjustedNanos - lines - expiredNanos - refundedNanos,
  );
}

const charges = `
  select sum(case when credit_kind = 'clearing' then amount_nanos else -amount_nanos end)
  from ledger_transfers where account_id = $1 and mode = $2 and source_type in ('usage', 'correction')`;

const balance = `
  select sum(credits_nanos - debits_nanos) from ledger_accounts
  where account_id = $1 and mode = $2 and kind in ('consumer', 'lease_escrow', 'consumer_receivable')`;

test("invoices of any history are a chain, and add up to the ledger", {
  timeout: 120_000,
}, async () => {
  await using books = await openBooks();
  const seed = Math.floor(Math.random() * 2 ** 32);
  const random = seeded(seed);
  const below = (count: number) => Math.floor(random() * count);
  const accounts = [newAccountId(0), newAccountId(1)];
  const [developer, apis] = [newAccountId(), [newApiId(), newApiId()]];
  const months = ["2026-07", "2026-08", "2026-09", "2026-10"];
  const sent: UsageEntry[] = [];
  const issued: { accountId: string; mode: Mode; invoice: Invoice }[] = [];

  for (const [index, month] of months.entries()) {
    for (let step = 0; step < 25; step++) {
      const [accountId, mode] = [
        must(accounts[below(2)]),
        below(4) === 0 ? "test" : "live",
      ] as const;
      const time = `${month}-${String(2 + below(26)).padStart(2, "0")}T10:00:00.000Z`;
      const now = new Date(time);
      const held = await books.held(accountId, "consumer", mode);
      const kind = below(10);
      if (kind === 0) {
        const types = ["grant", "purchase", "adjustment"];
        const of = {
          accountId,
          mode,
          type: must(types[below(3)]),
          amountNanos: BigInt(1 + below(9_000)),
        };
        await move(books, of, now);
      } else if (kind === 1 && held > 0n) {
        const type = must(["expiry", "refund", "adjustment"][below(3)]);
        const amountNanos = -1n - BigInt(below(Number(held)));
        await move(books, { accountId, mode, type, amountNanos }, now);
      } else if (kind === 2 && sent.length > 0) {
        const { account, source, id } = must(sent[below(sent.length)]);
        const correctionId = newId("cor", new Date());
        const adjustedNanos = BigInt(below(3_000));
        const entry = { kind: "adjust", account, source, id, correctionId, adjustedNanos } as const;
        await books.journal.append([{ ...entry, reason: "random" }]);
      } else {
        // Some come late: after their month is closed.
        const late = months[Math.max(0, index - below(2))];
        const entry = usage({
          account: accountId,
          developer,
          api: must(apis[below(2)]),
          charged: String(below(2_000)),
          time: time.replace(month, must(late)),
          mode,
        });
        const version = 1 + below(2);
        const event = { ...entry, price: { ...entry.price, version } };
        await books.journal.append([event]);
        sent.push(event);
      }
      if (below(3) === 0) {
        await books.project(now);
      }
    }
    await books.project(new Date(`${month}-28T23:00:00.000Z`));
    const after = new Date(`${months[index + 1] ?? "2026-11"}-01T05:00:00.000Z`);
    await books.db.systemTransaction((tx) => closePeriods(tx, "stl_1", after));
    await issueAll(books, after);
    for (const accountId of accounts) {
      for (const mode of ["live", "test"] as const) {
        const of = { accountId, month, test: mode === "test" };
        const found = await getInvoice(sourcesOf(books, after), of).catch(() => null);
        if (found !== null) {
          expect(found.state).toBe(InvoiceState.ISSUED);
          issued.push({ accountId, mode, invoice: found });
        }
      }
    }
  }

  expect(issued.length, `seed ${seed}`).toBeGreaterThan(6);
  for (const accountId of accounts) {
    for (const mode of ["live", "test"] as const) {
      const own = issued.filter((one) => one.accountId === accountId && one.mode === mode);
      let before = 0n;
      for (const { invoice } of own) {
        expectSums(invoice);
        expect(invoice.openingNanos, `seed ${seed}, ${invoice.number}`).toBe(before);
        before = invoice.closingNanos;
        // It is the one that was issued, whatever came later.
        const test = mode === "test";
        const again = await getInvoice(sourcesOf(books, new Date()), {
          accountId,
          month: invoice.month,
          test,
        });
        expect(again).toEqual(invoice);
      }
      const now = sourcesOf(books, new Date("2026-11-20T00:00:00Z"));
      const draft = await getInvoice(now, {
        accountId,
        month: "2026-11",
        test: mode === "test",
      }).catch(() => null);
      const all = [...own.map(({ invoice }) => invoice), ...(draft === null ? [] : [draft])];
      const charged = all.reduce((sum, { chargedNanos }) => sum + chargedNanos, 0n);
      expect(charged, `seed ${seed}`).toBe(await books.sum(charges, [accountId, mode]));
      expect(draft?.openingNanos ?? before).toBe(before);
      expect(draft?.closingNanos ?? before).toBe(await books.sum(balance, [accountId, mode]));
    }
  }
});

test("a month is issued once all that counts for it is applied, and not before", async () => {
  await using books = await openBooks();
  const [account, developer] = [newAccountId(), newAccountId()];
  const october = usage({ account, developer, charged: "100", time: "2026-10-15T00:00:00.000Z" });
  await books.journal.append([october]);
  const end = new Date("2026-11-01T00:30:00Z");
  const later = new Date("2026-11-01T02:00:00Z");
  const stateAt = async (now: Date) => {
    await issueAll(books, now);
    const of = { accountId: account, month: "2026-10", test: false };
    return (await getInvoice(sourcesOf(books, now), of).catch(() => null))?.state;
  };

  await books.db.systemTransaction((tx) => closePeriods(tx, "stl_1", end));
  expect(await stateAt(later)).toBeUndefined();
  await books.project(end);
  expect(await stateAt(end)).toBe(InvoiceState.DRAFT);
  expect(await stateAt(later)).toBe(InvoiceState.ISSUED);
  const { sum } = books;
  expect(await sum("select count(*) as sum from invoices")).toBe(1n);
  expect(await sum("select count(*) as sum from invoice_rounds where done_at is null")).toBe(0n);
});

test("months are closed and their invoices issued though nobody is ever paid", async () => {
  await using books = await openBooks();
  const [account, developer] = [newAccountId(), newAccountId()];
  const now = new Date();
  const month = new Date(now.getTime() - 6 * 3_600_000);
  month.setUTCDate(1);
  month.setUTCMonth(month.getUTCMonth() - 1);
  const time = month.toISOString();
  await books.journal.append([usage({ account, developer, charged: "100", time })]);
  await books.project();

  await books.db.systemTransaction(closeEndedPeriods);
  await books.db.systemTransaction(closeEndedPeriods);
  await issueAll(books, now);

  const of = { accountId: account, month: time.slice(0, 7), test: false };
  expect((await getInvoice(sourcesOf(books, now), of)).state).toBe(InvoiceState.ISSUED);
  const present = `${now.toISOString().slice(0, 7)}-01`;
  const open = "select count(*) as sum from periods where month >= $1";
  expect(await books.sum(open, [present])).toBe(0n);
});

test("an account whose invoice fails stops no other, and is tried again", async () => {
  await using books = await openBooks();
  const [accounts, developer] = [[newAccountId(), newAccountId(), newAccountId()], newAccountId()];
  const time = "2026-10-15T00:00:00.000Z";
  await books.journal.append(
    accounts.map((account) => usage({ account, developer, charged: "100", time })),
  );
  await books.project();
  const now = new Date("2026-11-02T00:00:00Z");
  await books.db.systemTransaction((tx) => closePeriods(tx, "stl_1", now));
  const broken = must([...accounts].sort()[0]);
  await books.superuser.query(`
    create function fail() returns trigger language plpgsql as $$ begin raise 'broken'; end $$;
    create trigger fail before insert on invoices for each row
    when (new.account_id = '${broken}') execute function fail()`);
  const failed: string[] = [];
  const sources = {
    ...sourcesOf(books, now),
    onFailed: (_: unknown, { accountId }: { accountId: string }) => failed.push(accountId),
  };
  const issue = async () => {
    while (await issueInvoices(sources)) {}
  };

  await issue();
  expect(await books.sum("select count(distinct account_id) as sum from invoices")).toBe(2n);
  expect(new Set(failed)).toEqual(new Set([broken]));
  await books.superuser.query("drop trigger fail on invoices");
  await issue();

  expect(await books.sum("select count(distinct account_id) as sum from invoices")).toBe(3n);
  expect(await books.sum("select count(*) as sum from invoice_retries")).toBe(0n);
});

test("a consumer sees invoices with lines by API and version, and their pages", async ({ app }) => {
  const admin = await app.admin();
  const [consumer, developer] = [await app.person(), await app.person("DEVELOPER")];
  const api = await app.api(developer, { callNanos: 1_500n });
  const catalog = app.client(CatalogService, developer.token);
  const metering = app.client(MeteringService, admin.token);
  const invoices = app.client(InvoiceService, consumer.token);
  const month = new Date().toISOString().slice(0, 7);
  const record = (id: string, units: bigint, test: boolean) =>
    metering.recordUsage({
      events: [{ source: "t", id, accountId: consumer.accountId, apiId: api.id, units, test }],
    });
  await expect(invoices.getInvoice({ month })).rejects.toMatchObject({ code: Code.NotFound });

  await app.grant(consumer.accountId, 10_000_000_000n);
  await record("a", 2n, false);
  await record("test", 7n, true);
  await catalog.updateApi({
    apiId: api.id,
    name: `<script>alert("&'1")</script>`,
    callNanos: 2_000n,
  });
  await record("b", 1n, false);
  await app.applied();
  const target = { accountId: consumer.accountId, source: "t", id: "a" };
  const corrections = app.client(CorrectionService, admin.token);
  await corrections.adjustEvent({ ...target, chargedNanos: 1_000n, reason: "half" });
  await app.applied();

  const { invoice } = await invoices.getInvoice({ month });
  const { invoices: listed } = await invoices.listInvoices({});
  const { invoices: tests } = await invoices.listInvoices({ test: true });

  const line = { apiId: api.id, apiName: `<script>alert("&'1")</script>` };
  expect(must(invoice)).toMatchObject({
    number: "",
    month,
    state: InvoiceState.DRAFT,
    test: false,
    chargedNanos: 3_000n,
    openingNanos: 0n,
    creditedNanos: 10_000_000_000n,
    closingNanos: 9_999_997_000n,
    lines: [
      {
        ...line,
        priceVersion: 1,
        calls: 1n,
        units: 2n,
        chargedNanos: 3_000n,
        correctedNanos: -2_000n,
      },
      { ...line, priceVersion: 2, calls: 1n, units: 1n, chargedNanos: 2_000n, correctedNanos: 0n },
    ],
  });
  expect(listed).toMatchObject([{ month, chargedNanos: 3_000n, lines: [] }]);
  expect(tests).toMatchObject([{ month, test: true, chargedNanos: 10_500n }]);

  const headers = { authorization: `Bearer ${consumer.token}` };
  const page = await fetch(`${app.url}/v1/credits/invoices/${month}/page`, { headers });
  const html = await page.text();
  expect(page.status).toBe(200);
  expect(page.headers.get("content-security-policy")).toMatch(
    /^default-src 'none'; style-src 'sha256-/,
  );
  expect(html).not.toMatch(/<script/i);
  expect(html).toContain("&lt;script&gt;alert(&quot;&amp;&#39;1&quot;)&lt;/script&gt;");
  expect(html).toContain("9.999997000");
  const of = (path: string, token: string) =>
    fetch(`${app.url}/v1/credits/invoices/${path}`, {
      headers: { authorization: `Bearer ${token}` },
    });
  expect((await of(`${month}/page?test=true`, consumer.token)).status).toBe(200);
  expect((await of(`${month}/page`, developer.token)).status).toBe(404);
  expect((await of("2026-13/page", consumer.token)).status).toBe(400);
  expect((await of(`${month}/page?test=x`, consumer.token)).status).toBe(400);
  expect((await fetch(`${app.url}/v1/credits/invoices/${month}/page`)).status).toBe(401);
});
