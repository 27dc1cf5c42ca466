import { randomUUID } from "node:crypto";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import { describe, expect } from "vitest";
import { AnalyticsService } from "../gen/callora/analytics/v1/analytics_service_pb.ts";
import {
  CorrectionService,
  QuarantineReason,
  QuarantineState,
} from "../gen/callora/metering/v1/correction_service_pb.ts";
import { MeteringService } from "../gen/callora/metering/v1/metering_service_pb.ts";
import { BadRequestSchema, ErrorInfoSchema } from "../gen/google/rpc/error_details_pb.ts";
import { findDifference } from "../src/difference.ts";
import { postTransfers } from "../src/ledger/store.ts";
import { encodeRow } from "../src/metering/codec.ts";
import { shardCount, shardOf } from "../src/metering/entry.ts";
import { rerate } from "../src/metering/rerate.ts";
import { startRun } from "../src/settlement/run.ts";
import { must, type startTestApp } from "./support/app.ts";
import { newAccountId, newApiId, openBooks, seeded, usage } from "./support/books.ts";
import { newPerson } from "./support/people.ts";
import { asSuperuser } from "./support/superuser.ts";
import { test } from "./support/test.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;
type Books = Awaited<ReturnType<typeof openBooks>>;

const price = 1_000_000n;

/** A consumer with credit, an API, and what records and corrects its events. */
async function setUp(app: App, credit = 100n * price) {
  const developer = await newPerson(app.db, "developer");
  const consumer = await newPerson(app.db);
  const admin = await newPerson(app.db, "super_admin");
  const api = await app.api(developer, { callNanos: price });
  await app.grant(consumer.accountId, credit);
  const metering = app.client(MeteringService, admin.token);
  const event = {
    source: "urn:test",
    accountId: consumer.accountId,
    apiId: api.id,
    statusCode: 200,
  };
  const corrections = app.client(CorrectionService, admin.token);
  const get = (id: string) =>
    app.client(MeteringService, consumer.token).getEvent({ source: "urn:test", id });
  return { developer, consumer, admin, api, metering, event, corrections, get };
}

async function reasonOf(call: Promise<unknown>): Promise<string> {
  const error = ConnectError.from(
    await call.then(
      () => "not refused",
      (e: unknown) => e,
    ),
  );
  return error.findDetails(ErrorInfoSchema)[0]?.reason ?? error.message;
}

/** Two events of one identity: the second is in quarantine. */
async function makeConflict(app: App, setting: Awaited<ReturnType<typeof setUp>>) {
  const { metering, event, corrections, consumer } = setting;
  const id = randomUUID();
  await metering.recordUsage({ events: [{ ...event, id, endpoint: "GET /a" }] });
  await metering.recordUsage({ events: [{ ...event, id, endpoint: "GET /b", statusCode: 201 }] });
  await app.applied();
  const { events } = await corrections.listQuarantinedEvents({ accountId: consumer.accountId });
  expect(events).toHaveLength(1);
  return { id, quarantined: must(events[0]) };
}

describe("quarantine", () => {
  test("says what is wrong with an event, and what it collided with", async ({ app }) => {
    const setting = await setUp(app);
    const { id, quarantined } = await makeConflict(app, setting);

    const found = await setting.corrections.getQuarantinedEvent({ quarantineId: quarantined.id });

    expect(found).toMatchObject({
      event: {
        reason: QuarantineReason.CONFLICT,
        state: QuarantineState.OPEN,
        chargedNanos: price,
        event: { id, endpoint: "GET /b", units: 1n, statusCode: 201 },
      },
      original: { event: { id, endpoint: "GET /a" }, chargedNanos: price },
    });
    expect(found.differences).toEqual(["endpoint", "status_code"]);
  });

  test("lists by reason, state and account, page by page", async ({ app }) => {
    const setting = await setUp(app);
    const { corrections, consumer, metering, event } = setting;
    const { accountId } = consumer;
    const { id, quarantined: first } = await makeConflict(app, setting);
    await metering.recordUsage({ events: [{ ...event, id, endpoint: "GET /c" }] });
    await app.applied();

    const page = await corrections.listQuarantinedEvents({ accountId, pageSize: 1 });
    const next = await corrections.listQuarantinedEvents({
      accountId,
      pageSize: 1,
      pageToken: page.nextPageToken,
    });
    const malformed = await corrections.listQuarantinedEvents({
      accountId,
      reason: QuarantineReason.MALFORMED,
    });
    const dismissed = await corrections.listQuarantinedEvents({
      accountId,
      state: QuarantineState.DISMISSED,
    });

    expect(page.events.map((one) => one.event?.endpoint)).toEqual(["GET /c"]);
    expect(next.events.map((one) => one.id)).toEqual([first.id]);
    expect(next.nextPageToken).toBe("");
    expect([...malformed.events, ...dismissed.events]).toEqual([]);
  });

  test("an event is replayed with another body, once, and charged at the price that held", async ({
    app,
  }) => {
    const setting = await setUp(app);
    const { corrections, event, get } = setting;
    const { quarantined } = await makeConflict(app, setting);
    const id = randomUUID();
    const request = {
      requestId: randomUUID(),
      quarantineIds: [quarantined.id],
      fixed: { ...event, id, units: 2n },
      reason: "the sender used an id twice",
    };

    const { position } = await corrections.replayEvents(request);
    const again = await corrections.replayEvents(request);
    await app.applied();

    expect(again.position).toBe(position);
    expect((await get(id)).event).toMatchObject({
      chargedNanos: 2n * price,
      position,
      duplicates: 0,
    });
    const found = await corrections.getQuarantinedEvent({ quarantineId: quarantined.id });
    expect(found.event).toMatchObject({
      state: QuarantineState.REPLAYED,
      replayPosition: position,
    });
    const { requestId: _, ...other } = request;
    expect(await reasonOf(corrections.replayEvents(other))).toBe("QUARANTINE_CLOSED");
    expect(
      await reasonOf(corrections.dismissEvent({ quarantineId: quarantined.id, reason: "x" })),
    ).toBe("QUARANTINE_CLOSED");
  });

  test("another body is checked as the door checks events", async ({ app }) => {
    const setting = await setUp(app);
    const { corrections, event } = setting;
    const { quarantined } = await makeConflict(app, setting);
    const daysAgo = (days: number) => timestampFromMs(Date.now() - days * 24 * 60 * 60 * 1_000);
    const wrong = [
      [{ time: timestampFromMs(-1_000) }, "fixed.time"],
      [{ time: daysAgo(41) }, "fixed.time"],
      [{ time: daysAgo(-1) }, "fixed.time"],
      [{ units: 1_000_000_000_000n }, "fixed.units"],
      [{ data: "{" }, "fixed.data"],
      [{ source: "gateway" }, "fixed.source"],
      [{ accountId: newAccountId() }, "fixed.account_id"],
      [{ apiId: newApiId() }, "fixed.api_id"],
    ] as const;
    const request = { quarantineIds: [quarantined.id], reason: "x" };

    for (const [change, field] of wrong) {
      const fixed = { ...event, id: randomUUID(), ...change };
      const error = await corrections.replayEvents({ ...request, fixed }).catch((one) => one);
      const { fieldViolations } = must(ConnectError.from(error).findDetails(BadRequestSchema)[0]);
      expect(fieldViolations.map((one) => one.field)).toEqual([field]);
    }
    await corrections.replayEvents({
      ...request,
      fixed: { ...event, id: randomUUID(), time: daysAgo(39) },
    });
    await app.applied();
    const { rows } = await asSuperuser(app, (client) =>
      client.query("select detail from audit_logs where resource = $1", [
        `quarantined_event:${quarantined.id}`,
      ]),
    );
    expect(rows).toEqual([
      { detail: expect.stringMatching(`^x \\(as of ${event.accountId}, body [0-9a-f]{64}\\)$`) },
    ]);
    // Each that was replayed or dismissed is known by the journal or the audit log.
    expect(await app.db.systemTransaction(async (tx) => findDifference(tx, await rerate(tx)))).toBe(
      null,
    );
  });

  test("what cannot be read is replayed only with a body", async ({ app }) => {
    const { corrections, event, get } = await setUp(app);
    await asSuperuser(app, async (client) => {
      await client.query("begin");
      await client.query("update journal_head set position = position + 1");
      await client.query(
        `insert into usage_journal (shard, position, codec, body, entries)
         select 0, position, 1, '\\xffff', 1 from journal_head`,
      );
      await client.query("commit");
    });
    await app.applied();
    const { events } = await corrections.listQuarantinedEvents({
      reason: QuarantineReason.MALFORMED,
    });
    const { id: quarantineId, raw, event: readable } = must(events[0]);
    const id = randomUUID();
    const request = { quarantineIds: [quarantineId], reason: "put right" };

    const refused = await reasonOf(corrections.replayEvents(request));
    await corrections.replayEvents({ ...request, fixed: { ...event, id } });
    await app.applied();

    expect(Buffer.from(raw).toString("hex")).toBe("ffff");
    expect(readable).toBeUndefined();
    expect(refused).toBe("QUARANTINE_UNREADABLE");
    expect((await get(id)).event?.chargedNanos).toBe(price);
  });

  test("what was over the limit is replayed as it came, once the account may owe more", async ({
    app,
  }) => {
    const { corrections, event, get, metering, consumer } = await setUp(app, 1n);
    const { accountId } = consumer;
    await corrections.setDebtLimit({ accountId, limitNanos: 0n });
    const id = randomUUID();
    await metering.recordUsage({ events: [{ ...event, id }] });
    await app.applied();
    const { events } = await corrections.listQuarantinedEvents({ accountId });
    const [over] = events;
    expect(over?.reason).toBe(QuarantineReason.OVER_LIMIT);

    await corrections.setDebtLimit({ accountId, limitNanos: price });
    await corrections.replayEvents({ quarantineIds: [must(over).id], reason: "they may" });
    await app.applied();

    expect((await get(id)).event?.chargedNanos).toBe(price);
  });

  test("none is replayed when one of them cannot be", async ({ app }) => {
    const setting = await setUp(app);
    const { corrections } = setting;
    const { quarantined } = await makeConflict(app, setting);
    const quarantineIds = [quarantined.id, "999999999.0"];

    const call = corrections.replayEvents({ quarantineIds, reason: "x" });

    await expect(call).rejects.toMatchObject({ code: Code.NotFound });
    const found = await corrections.getQuarantinedEvent({ quarantineId: quarantined.id });
    expect(found.event?.state).toBe(QuarantineState.OPEN);
  });

  test("a dismissed event stays, uncharged", async ({ app }) => {
    const setting = await setUp(app);
    const { corrections } = setting;
    const { quarantined } = await makeConflict(app, setting);
    const request = { quarantineId: quarantined.id, reason: "a test of theirs" };

    const first = await corrections.dismissEvent(request);
    const second = await corrections.dismissEvent(request);

    expect(first.event?.state).toBe(QuarantineState.DISMISSED);
    expect(second.event).toEqual(first.event);
  });
});

test("an event is taken back once: its money, its call, and the revenue", async ({ app }) => {
  const { corrections, event, metering, consumer, developer } = await setUp(app);
  const { accountId } = consumer;
  const id = randomUUID();
  await metering.recordUsage({ events: [{ ...event, id }] });
  await app.applied();
  const request = { accountId, source: event.source, id, reason: "a mistake" };

  // Both are durable before either is applied: the second of them finds nothing to take back.
  const results = await Promise.all([
    corrections.voidEvent(request),
    corrections.voidEvent(request),
  ])
    .then(() => "both" as const)
    .catch(reasonOfError);
  await app.applied();

  expect(["both", "EVENT_VOIDED"]).toContain(results);
  expect(await reasonOf(corrections.voidEvent(request))).toBe("EVENT_VOIDED");
  expect(await reasonOf(corrections.adjustEvent({ ...request, chargedNanos: 1n }))).toBe(
    "EVENT_VOIDED",
  );
  const held = await heldBy(app, accountId);
  expect(held).toMatchObject({ consumer: 100n * price });
  expect(await heldBy(app, developer.accountId)).toMatchObject({ payable: 0n });
  const usageNow = await app.client(AnalyticsService, consumer.token).getUsage({});
  expect(usageNow).toMatchObject({ calls: 0, chargedNanos: 0n });
});

test("an event that nobody sent cannot be corrected", async ({ app }) => {
  const { corrections, event, consumer } = await setUp(app);
  const request = { accountId: consumer.accountId, source: event.source, id: "none", reason: "x" };

  await expect(corrections.voidEvent(request)).rejects.toMatchObject({ code: Code.NotFound });
});

function reasonOfError(error: unknown): string {
  return ConnectError.from(error).findDetails(ErrorInfoSchema)[0]?.reason ?? "";
}

async function heldBy(app: App, accountId: string): Promise<Record<string, bigint>> {
  return asSuperuser(app, async (client) => {
    const { rows } = await client.query(
      `select kind, credits_nanos - debits_nanos as held from ledger_accounts
       where account_id = $1 and mode = 'live'`,
      [accountId],
    );
    return Object.fromEntries(rows.map(({ kind, held }) => [kind, BigInt(held)]));
  });
}

/** An applied event in books of their own, and what corrects it. */
function setUpBooks({ charged = 1_000n, feeBasisPoints = 1_000 } = {}) {
  const [account, developer] = [newAccountId(), newAccountId()];
  const entry = usage({ account, developer, charged: String(charged), feeBasisPoints });
  const { source, id } = entry;
  function correction(kind: "void" | "adjust", adjustedNanos = 0n) {
    const correctionId = `cor_${randomUUID()
      .replaceAll(/[^0-9a-f]/g, "")
      .slice(0, 26)}`;
    return { kind, account, source, id, correctionId, adjustedNanos, reason: "a test" };
  }
  return { account, developer, entry, correction };
}

describe("money", () => {
  test("that a developer owes is taken before a run pays them", async () => {
    await using books = await openBooks();
    const { account, developer, entry, correction } = setUpBooks();
    await books.grant(account, 5_000n);
    await books.journal.append([entry]);
    await books.project();
    await payOut(books, developer, 900n);
    await books.journal.append([correction("void")]);
    await books.journal.append([usage({ account, developer, charged: "800", feeBasisPoints: 0 })]);
    await books.project();
    const run = () => books.db.systemTransaction((tx) => startRun(tx, 0n, new Date()));

    await run();
    const owed = await books.held(developer, "developer_receivable");
    await books.journal.append([usage({ account, developer, charged: "800", feeBasisPoints: 0 })]);
    await books.project();
    await run();

    expect(owed).toBe(-100n);
    expect(await books.held(developer, "developer_receivable")).toBe(0n);
    expect(await books.held(developer, "payable")).toBe(700n);
  });

  test("that was paid out is owed by the developer, and repaid first", async () => {
    await using books = await openBooks();
    const { account, developer, entry, correction } = setUpBooks();
    await books.grant(account, 5_000n);
    await books.journal.append([entry]);
    await books.project();
    await payOut(books, developer, 850n);

    await books.journal.append([correction("void")]);
    await books.project();
    const owed = await books.held(developer, "developer_receivable");
    const refunded = await books.held(account, "consumer");
    const later = usage({ account, developer, charged: "100", feeBasisPoints: 0 });
    await books.journal.append([later]);
    await books.project();
    await books.journal.append([
      { ...correction("adjust", 1_000n), source: later.source, id: later.id },
    ]);
    await books.project();

    expect(refunded).toBe(5_000n);
    expect(owed).toBe(-850n);
    // 100 of usage stay payable until a settlement takes them; the 900 more pay the debt first.
    expect(await books.held(developer, "developer_receivable")).toBe(0n);
    expect(await books.held(developer, "payable")).toBe(150n);
    expect(await total(books)).toBe(0n);
  });

  test("that the consumer does not have is owed, and a refund pays that debt first", async () => {
    await using books = await openBooks();
    const { account, entry, correction } = setUpBooks();
    await books.grant(account, 1_200n);
    await books.journal.append([entry]);
    await books.journal.append([correction("adjust", 1_500n)]);
    await books.project();
    const owed = await books.held(account, "consumer_receivable");

    await books.journal.append([correction("adjust", 1_100n)]);
    await books.project();

    expect(owed).toBe(-300n);
    expect(await books.held(account, "consumer_receivable")).toBe(0n);
    expect(await books.held(account, "consumer")).toBe(100n);
    expect(await total(books)).toBe(0n);
  });

  test("of any history of corrections is what the last charge says", async () => {
    await using books = await openBooks();
    const seed = Math.trunc(Math.random() * 2 ** 32);
    console.log(`corrections: seed ${seed}`);
    const random = seeded(seed);
    const [account, developer] = [newAccountId(), newAccountId()];
    await books.grant(account, 100_000n);
    const charges = new Map<string, { entry: ReturnType<typeof usage>; charged: bigint }>();
    for (let step = 0; step < 40; step++) {
      const known = [...charges.values()];
      const one = known[Math.floor(random() * known.length)];
      if (one === undefined || random() < 0.4) {
        const charged = BigInt(Math.floor(random() * 1_000));
        const entry = usage({
          account,
          developer,
          charged: String(charged),
          feeBasisPoints: 1_234,
        });
        charges.set(entry.id, { entry, charged });
        await books.journal.append([entry]);
      } else {
        const { source, id } = one.entry;
        const { correction } = setUpBooks();
        const isVoid = random() < 0.2;
        one.charged = isVoid ? 0n : BigInt(Math.floor(random() * 1_000));
        const kind = isVoid ? "void" : "adjust";
        await books.journal.append([{ ...correction(kind, one.charged), account, source, id }]);
        if (isVoid) {
          charges.delete(id);
        }
      }
      if (random() < 0.3) {
        await books.project();
      }
    }
    await books.project();

    const sum = [...charges.values()].reduce((all, { charged }) => all + charged, 0n);
    expect(await books.held(account, "consumer")).toBe(100_000n - sum);
    const rollups = "select sum(charged_nanos) as sum from usage_rollups where account_id = $1";
    expect(await books.sum(rollups, [account])).toBe(sum);
    const revenue = "select sum(revenue_nanos) as sum from revenue_rollups where account_id = $1";
    expect(await books.sum(revenue, [developer])).toBe(sum);
    expect(await books.sum("select count(*) as sum from usage_quarantine")).toBe(0n);
    expect(await total(books)).toBe(0n);
  });
});

test("a correction that cannot be applied is kept aside, and stops nothing", async () => {
  await using books = await openBooks();
  const { account, developer, entry, correction } = setUpBooks();
  await books.grant(account, 5_000n);
  const shard = shardOf(account, shardCount);
  await books.journal.append([entry]);
  await books.project();
  // The platform's share is gone, as no code of ours takes it: the balance does not cover the refund.
  await books.superuser.query(
    "update ledger_accounts set debits_nanos = credits_nanos where kind = 'platform_fee'",
  );

  const broken = correction("void");
  await books.plant(encodeRow([broken, { ...broken, id: "none" }]), { shard });
  const next = usage({ account, developer, charged: "7" });
  await books.journal.append([next]);
  await books.project();

  const { rows } = await books.superuser.query(
    "select reason, detail from usage_quarantine order by position, ordinal",
  );
  expect(rows).toEqual([
    {
      reason: "POISONED",
      detail: "the database refused it: 23514, constraint ledger_accounts_covered",
    },
    { reason: "POISONED", detail: "there is no such event" },
  ]);
  expect(await books.held(account, "consumer")).toBe(5_000n - 1_007n);
  expect(await books.sum("select count(*) as sum from usage_corrections")).toBe(0n);
});

/** The clearing of all accounts together, which is nothing when no money was made or lost. */
function total(books: Books): Promise<bigint> {
  return books.sum(
    "select sum(credits_nanos - debits_nanos) from ledger_accounts where kind = 'clearing'",
  );
}

/** Pay a developer, as a settlement would. */
async function payOut(books: Books, accountId: string, amountNanos: bigint): Promise<void> {
  const source = { type: "payout_reserve", id: randomUUID() };
  const payout = { accountId, mode: "live", amountNanos, source } as const;
  await books.db.systemTransaction((tx) =>
    postTransfers(tx, [{ ...payout, debit: "payable", credit: "in_flight" }], new Date()),
  );
}
