import { randomUUID } from "node:crypto";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import { describe, expect, test as plain } from "vitest";
import { CreditService } from "../gen/callora/credits/v1/credit_service_pb.ts";
import {
  MeteringService,
  type UsageEventSchema,
} from "../gen/callora/metering/v1/metering_service_pb.ts";
import { BadRequestSchema } from "../gen/google/rpc/error_details_pb.ts";
import { platformAccountId } from "../src/ledger/store.ts";
import { shareFloor } from "../src/lib/money.ts";
import { decodeRow, encodeRow } from "../src/metering/codec.ts";
import { shardCount, shardOf } from "../src/metering/entry.ts";
import { getWatermark } from "../src/metering/journal.ts";
import { openDatabase } from "../src/server.ts";
import { must, type startTestApp, until } from "./support/app.ts";
import {
  grant,
  newAccountId,
  openBooks,
  patiently,
  projectAll,
  projectOnce,
  seeded,
  usage,
} from "./support/books.ts";
import { newPerson, type SignedIn } from "./support/people.ts";
import { Crash, failAfter } from "./support/projected.ts";
import { asSuperuser } from "./support/superuser.ts";
import { test } from "./support/test.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;
type Event = MessageInitShape<typeof UsageEventSchema>;

const price = 1_000_000n;
const day = 24 * 60 * 60 * 1000;

/** A consumer with credit, an API, and what records events of both. */
async function setUp(app: App, credit = 100n * price) {
  const developer = await newPerson(app.db, "developer");
  const consumer = await newPerson(app.db);
  const service = await newPerson(app.db, "super_admin");
  const api = await app.api(developer, { callNanos: price });
  await grant(app.db, consumer.accountId, credit);
  const metering = app.client(MeteringService, service.token);
  const event = (more: Event = {}): Event => ({
    source: "urn:test",
    id: randomUUID(),
    accountId: consumer.accountId,
    apiId: api.id,
    endpoint: "POST /jobs",
    ...more,
  });
  return { developer, consumer, service, metering, event };
}

async function applied(app: App): Promise<void> {
  const { durable } = await app.db.systemTransaction(getWatermark);
  await until(async () => (await app.db.systemTransaction(getWatermark)).applied >= durable);
}

function get(app: App, consumer: SignedIn, identity: { source: string; id: string }) {
  return app.client(MeteringService, consumer.token).getEvent(identity);
}

async function charged(app: App, { token }: SignedIn): Promise<bigint> {
  const { balance } = await app.client(CreditService, token).getBalance({});
  return must(balance).chargedNanos;
}

async function fieldsOf(call: Promise<unknown>): Promise<string[]> {
  const error = ConnectError.from(
    await call.then(
      () => new Error("not refused"),
      (e) => e,
    ),
  );
  expect(error.code).toBe(Code.InvalidArgument);
  return error
    .findDetails(BadRequestSchema)
    .flatMap(({ fieldViolations }) => fieldViolations.map(({ field }) => field));
}

test("an event that comes again, in its request or a later one, counts once", async ({ app }) => {
  const { metering, event, consumer } = await setUp(app);
  const once = event();

  const first = await metering.recordUsage({ events: [once, once, once] });
  await applied(app);
  const second = await metering.recordUsage({ events: [once] });
  await applied(app);

  expect(second.position).toBeGreaterThan(first.position);
  const found = await get(app, consumer, { source: "urn:test", id: must(once.id) });
  expect(found.event).toMatchObject({
    chargedNanos: price,
    position: first.position,
    duplicates: 3,
    conflicts: 0,
  });
  expect(await charged(app, consumer)).toBe(price);
});

test("another event under a known identity is kept aside, and never charged", async ({ app }) => {
  const { metering, event, consumer } = await setUp(app);
  const first = event({ endpoint: "GET /a" });

  await metering.recordUsage({ events: [first, { ...first, endpoint: "GET /b" }] });
  const { position } = await metering.recordUsage({ events: [{ ...first, test: true }] });
  await applied(app);

  const found = await get(app, consumer, { source: "urn:test", id: must(first.id) });
  expect(found.event).toMatchObject({ duplicates: 0, conflicts: 2 });
  expect(must(found.event).event).toMatchObject({ endpoint: "GET /a", test: false });
  expect(await charged(app, consumer)).toBe(price);
  const kept = await asSuperuser(app, (client) =>
    client.query(
      "select reason, mode, position::int as position, raw, charged_nanos from usage_quarantine " +
        "where account_id = $1 order by position",
      [consumer.accountId],
    ),
  );
  expect(kept.rows).toMatchObject([
    { reason: "CONFLICT", mode: "live", charged_nanos: String(price) },
    { reason: "CONFLICT", mode: "test", charged_nanos: String(price) },
  ]);
  expect(kept.rows.flatMap(({ raw }) => decodeRow({ codec: 1, body: raw }).entries)).toMatchObject([
    { endpoint: "GET /b", mode: "live" },
    { endpoint: "GET /a", mode: "test" },
  ]);
  expect(BigInt(kept.rows[1].position)).toBe(position);
});

test("source and id are told apart, whatever is in them, and so are accounts", async ({ app }) => {
  const { metering, event, consumer } = await setUp(app);
  const other = await newPerson(app.db);
  const identities = [
    { source: "a-b", id: "c" },
    { source: "a", id: "b-c" },
    { source: "a", id: '","' },
    { source: 'a","', id: "," },
    { source: "A", id: "b-c" },
    { source: "a ", id: "b-c" },
    { source: "é", id: "1" },
    { source: "e\u0301", id: "1" },
  ];

  await metering.recordUsage({
    events: [
      ...identities.map((identity) => event(identity)),
      event({ source: "a", id: "b-c", accountId: other.accountId }),
    ],
  });
  await applied(app);

  expect(await charged(app, consumer)).toBe(BigInt(identities.length) * price);
  for (const identity of identities) {
    const found = await get(app, consumer, identity);
    expect(found.event).toMatchObject({ event: identity, duplicates: 0, conflicts: 0 });
  }
  expect((await get(app, other, { source: "a", id: "b-c" })).event).toMatchObject({
    duplicates: 0,
  });
});

const fromNow = (ms: number) => timestampFromDate(new Date(Date.now() + ms));

// Made by the test: a limit of five minutes is not five minutes any more when the test comes late.
test.for<[string, () => Event]>([
  ["events[1].time", () => ({ time: fromNow(-41 * day) })],
  ["events[1].time", () => ({ time: fromNow(6 * 60_000) })],
  ["events[1].time", () => ({ time: { seconds: 10n ** 17n } })],
  ["events[1].source", () => ({ source: "gateway" })],
  ["events[1].source", () => ({ source: "a\0b" })],
  ["events[1].id", () => ({ id: "\0" })],
  ["events[1].endpoint", () => ({ endpoint: "GET /\0" })],
  ["events[1].account_id", () => ({ accountId: newAccountId() })],
  ["events[1].api_id", () => ({ apiId: "api_00000000000000000000000000" })],
  ["events[1].id", () => ({ id: "" })],
])(
  "%s is named when it is refused, and nothing of the request is recorded",
  async ([field, wrong], { app }) => {
    const { metering, event, consumer } = await setUp(app);
    const good = event();
    const { durable } = await app.db.systemTransaction(getWatermark);

    const fields = await fieldsOf(metering.recordUsage({ events: [good, event(wrong())] }));

    expect(fields).toEqual([field]);
    expect((await app.db.systemTransaction(getWatermark)).durable).toBe(durable);
    expect(await charged(app, consumer)).toBe(0n);
  },
);

test("events just inside the time limits are taken", async ({ app }) => {
  const { metering, event } = await setUp(app);
  const times = [Date.now() - 40 * day + 60_000, Date.now() + 4 * 60_000];

  const events = times.map((ms) => event({ time: timestampFromDate(new Date(ms)) }));

  await expect(metering.recordUsage({ events })).resolves.toBeDefined();
});

test("half a character is refused by its field, not with the whole batch", async ({ app }) => {
  const { event, service } = await setUp(app);

  const response = await fetch(`${app.url}/v1/usage`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${service.token}` },
    body: JSON.stringify({ events: [{ ...event(), id: "x" }] }).replace('"x"', '"\\ud800"'),
  });

  expect(response.status).toBe(400);
  expect(await response.text()).toContain("id");
});

test("the answer waits until the events are durable", async ({ app }) => {
  const { metering, event, consumer } = await setUp(app);
  let isAnswered = false;

  await asSuperuser(app, async (client) => {
    await client.query("begin");
    await client.query("select from journal_head for update");
    const recording = metering.recordUsage({ events: [event()] }).then(() => {
      isAnswered = true;
    });
    await until(() => isAppendWaiting(app));
    expect(isAnswered).toBe(false);
    await client.query("rollback");
    await recording;
  });
  await applied(app);

  expect(await charged(app, consumer)).toBe(price);
});

test("use beyond the balance is owed by the consumer, and the developer has it all", async ({
  app,
}) => {
  const { metering, event, consumer, developer } = await setUp(app, (5n * price) / 2n);

  await metering.recordUsage({ events: [event(), event(), event(), event()] });
  await applied(app);

  const { rows } = await asSuperuser(app, (client) =>
    client.query(
      "select kind, (credits_nanos - debits_nanos)::text as held from ledger_accounts " +
        "where account_id = any($1) and kind <> 'clearing' and credits_nanos + debits_nanos > 0",
      [[consumer.accountId, developer.accountId]],
    ),
  );
  const fee = shareFloor(4n * price, app.config.platformFeeBasisPoints);
  expect(Object.fromEntries(rows.map(({ kind, held }) => [kind, BigInt(held)]))).toEqual({
    consumer: 0n,
    consumer_receivable: (-3n * price) / 2n,
    payable: 4n * price - fee,
  });
});

test("a call that failed on the server costs nothing, but is counted", async ({ app }) => {
  const { metering, event, consumer } = await setUp(app);
  const failed = event({ statusCode: 503 });

  await metering.recordUsage({ events: [failed, event({ statusCode: 404 })] });
  await applied(app);

  expect(await charged(app, consumer)).toBe(price);
  const found = await get(app, consumer, { source: "urn:test", id: must(failed.id) });
  expect(found.event).toMatchObject({ chargedNanos: 0n });
});

describe("the projector", () => {
  plain("quarantines what makes no sense and applies the rest of the shard", async () => {
    await using books = await openBooks();
    const [account, developer] = [newAccountId(0), newAccountId()];
    const good = jsonUsage({ account, developer });
    const malformed: unknown[] = [
      { ...good, id: "1", charged: "-1" },
      { ...good, id: "2", charged: 1000 },
      { ...good, id: "3", charged: "9".repeat(19) },
      { ...good, id: "4", status: 3_000_000_000 },
      { ...good, id: "5", priceVersion: 3_000_000_000 },
      { ...good, id: "6", time: "0000-01-01T00:00:00Z" },
      { ...good, id: "7", time: "yesterday" },
      { ...good, id: "x".repeat(3_000) },
      { ...good, id: "8", endpoint: "x".repeat(5_000) },
      { ...good, id: "9", account: "nobody" },
      { ...good, id: "10", mode: "gold" },
      { ...good, id: "11", hash: "" },
      { ...good, id: "12", feeBasisPoints: 10_001 },
      { ...good, id: undefined },
      "text",
      null,
      7,
      [],
    ];
    const rows: unknown[] = [[good, ...malformed], {}, "text", null, 5];
    for (const events of rows) {
      await books.plant(Buffer.from(JSON.stringify(events)), { codec: 0 });
    }
    const noRow = Buffer.from([0xff, 0xff]);
    await books.plant(noRow);
    const wrong = { ...usage({ account, developer }), status: 1_000 };
    await books.plant(encodeRow([wrong, usage({ account, developer })]));

    await books.project();

    expect(await books.sum("select min(position) as sum from projector_cursors")).toBe(
      BigInt(rows.length + 2),
    );
    expect(await books.sum("select count(*) as sum from usage_events")).toBe(2n);
    const kept = await books.superuser.query(
      "select raw from usage_quarantine where reason = 'MALFORMED' order by position, ordinal",
    );
    const texts = [...malformed, {}, "text", null, 5].map((one) => JSON.stringify(one));
    expect(kept.rows.slice(0, texts.length).map(({ raw }) => String(raw))).toEqual(texts);
    expect(kept.rows.slice(texts.length)).toEqual([{ raw: noRow }, { raw: expect.any(Buffer) }]);
    expect(await books.held(account, "consumer_receivable")).toBe(-2_000n);
  });

  plain("counts an event once when it comes again after a restart", async () => {
    await using books = await openBooks();
    const event = usage({ account: newAccountId(), developer: newAccountId() });
    await books.journal.append([event]);
    await books.project();
    const restarted = await openDatabase(books.urls);

    await books.journal.append([event, { ...event, chargedNanos: 1n }]);
    await projectAll(restarted);
    await restarted.close();

    expect(await books.sum("select sum(charged_nanos) from usage_events")).toBe(1_000n);
    // The price is not what the sender said: it makes no conflict.
    expect(await books.sum("select sum(duplicates) from usage_events")).toBe(2n);
    expect(await totals(books)).toEqual(Array(5).fill(1_000n));
  });

  plain("applies each event once when several run at once", async () => {
    await using books = await openBooks();
    const [account, developer] = [newAccountId(), newAccountId()];
    await books.grant(account, 1_000_000n);
    const others = await Promise.all([openDatabase(books.urls), openDatabase(books.urls)]);
    let isDone = false;

    const projectors = [books.db, ...others].map(async (db) => {
      while (!isDone) {
        await patiently(() => projectAll(db));
      }
    });
    for (let round = 0; round < 40; round++) {
      const events = Array.from({ length: 5 }, () => usage({ account, developer }));
      await Promise.all(events.map((event) => books.journal.append([event, event])));
    }
    isDone = true;
    await Promise.all(projectors);
    await books.project();
    await Promise.all(others.map((db) => db.close()));

    expect(await books.sum("select count(*) as sum from usage_events")).toBe(200n);
    expect(await books.sum("select sum(duplicates) from usage_events")).toBe(200n);
    expect(await totals(books)).toEqual(Array(5).fill(200_000n));
  });

  plain(
    "applies nothing of a transaction that fails at any statement, and all of it later",
    { timeout: 90_000 },
    async () => {
      await using books = await openBooks();
      const [account, developer] = [newAccountId(), newAccountId()];
      await books.grant(account, 2_500n);
      let total = 0n;

      for (let step = 1; ; step++) {
        const event = usage({ account, developer });
        await books.journal.append([
          event,
          event,
          { ...event, endpoint: "GET /other" },
          { ...event, status: 1_000 },
        ]);
        const failing = projectOnce(books.db, shardOf(account, shardCount), {
          wrap: (tx) => failAfter(tx, step),
        });
        const isFailed = await failing.then(
          () => false,
          (error: unknown) => {
            expect(error).toBeInstanceOf(Crash);
            return true;
          },
        );
        if (isFailed) {
          expect(await totals(books)).toEqual(Array(5).fill(total));
        }
        await books.project();
        total += 1_000n;
        expect(await totals(books)).toEqual(Array(5).fill(total));
        if (!isFailed) {
          expect(step).toBeGreaterThan(12);
          break;
        }
      }
      expect(await books.sum("select sum(duplicates) from usage_events")).toBe(total / 1_000n);
      expect(await books.sum("select count(*) as sum from usage_quarantine")).toBe(total / 500n);
    },
  );

  plain(
    "applies nothing when its session is killed in the middle, and all of it later",
    async () => {
      await using books = await openBooks();
      const [account, developer] = [newAccountId(), newAccountId()];
      await books.journal.append([usage({ account, developer })]);
      await books.superuser.query(`
      create function dawdle() returns trigger language plpgsql as
        'begin perform pg_sleep(20); return new; end';
      create trigger dawdle before insert on ledger_transfers
        for each row execute function dawdle();
    `);

      const projecting = books.project().catch((error: unknown) => error);
      await until(async () => {
        const { rowCount } = await books.superuser.query(
          "select pg_terminate_backend(pid) from pg_stat_activity " +
            "where datname = current_database() and wait_event = 'PgSleep'",
        );
        return rowCount === 1;
      });

      expect(await projecting).toBeInstanceOf(Error);
      expect(await totals(books)).toEqual(Array(5).fill(0n));
      await books.superuser.query("drop trigger dawdle on ledger_transfers");
      await books.project();
      expect(await totals(books)).toEqual(Array(5).fill(1_000n));
    },
  );

  plain("takes a long backlog in transactions of a bounded size", async () => {
    await using books = await openBooks();
    const [account, developer] = [newAccountId(0), newAccountId()];
    for (let row = 0; row < 7; row++) {
      await books.journal.append(
        Array.from({ length: 1_000 }, () => usage({ account, developer, charged: "1" })),
      );
    }

    await projectOnce(books.db, 0);

    expect(await books.sum("select position as sum from projector_cursors where shard = 0")).toBe(
      5n,
    );
    await books.project();
    expect(await totals(books)).toEqual(Array(5).fill(7_000n));
  });
});

const seed = Number(process.env.CALLORA_TEST_SEED ?? Date.now() % 1_000_000);

plain(
  `the platform's share does not depend on how events were batched (seed ${seed})`,
  async () => {
    await using books = await openBooks();
    const random = seeded(seed);
    const below = (limit: number) => Math.floor(random() * limit);
    const shares = [0, 1, 333, 1_234, 10_000];
    const charges = Array.from({ length: 120 }, () => ({
      charged: String(random() < 0.2 ? 0 : below(random() < 0.5 ? 50 : 1_000_000)),
      feeBasisPoints: shares[below(shares.length)] ?? 0,
      account: newAccountId().replace(/.$/, String(below(3))),
    }));
    const consumers = charges.map(({ account }) => account);
    await books.grant(must(consumers[0]), 500_000n);
    const developers = [newAccountId(), newAccountId(), newAccountId()];
    const sizes = [() => 1, () => charges.length, () => 1 + below(17)];

    for (const [index, developer] of developers.entries()) {
      const left = [...charges].sort(() => random() - 0.5);
      while (left.length > 0) {
        const batch = left.splice(0, must(sizes[index])());
        await books.journal.append(batch.map((charge) => usage({ ...charge, developer })));
        if (index !== 2 || random() < 0.5) {
          await books.project();
        }
      }
    }
    await books.project();

    const gross = charges.reduce((sum, { charged: nanos }) => sum + BigInt(nanos), 0n);
    // Each shard has a running total of its own.
    const sums = Map.groupBy(
      charges,
      ({ account, feeBasisPoints }) => `${shardOf(account, shardCount)} ${feeBasisPoints}`,
    );
    const fee = [...sums.values()].reduce((sum, ofOne) => {
      const total = ofOne.reduce((all, one) => all + BigInt(one.charged), 0n);
      return sum + shareFloor(total, ofOne[0]?.feeBasisPoints ?? 0);
    }, 0n);
    for (const developer of developers) {
      expect(await books.held(developer, "payable"), `seed ${seed}`).toBe(gross - fee);
    }
    expect(await books.held(platformAccountId, "platform_fee"), `seed ${seed}`).toBe(3n * fee);
    expect(await totals(books), `seed ${seed}`).toEqual(Array(5).fill(3n * gross));
  },
  180_000,
);

type Books = Awaited<ReturnType<typeof openBooks>>;

/** An event as rows of codec 0 hold it. */
function jsonUsage({ account, developer }: { account: string; developer: string }) {
  return {
    source: "test",
    id: randomUUID(),
    account,
    developer,
    mode: "live",
    api: `api_${"0".repeat(26)}`,
    key: null,
    endpoint: "GET /x",
    status: 200,
    time: "2026-11-20T10:07:00.000Z",
    priceVersion: 1,
    feeBasisPoints: 1_000,
    charged: "1000",
    lease: null,
    hash: "0".repeat(64),
  };
}

/** What was used, found five ways: events, both roll-ups, what consumers paid or owe, what was earned. */
async function totals({ sum }: Books): Promise<bigint[]> {
  return [
    await sum("select sum(charged_nanos) from usage_events"),
    await sum("select sum(charged_nanos) from usage_rollups"),
    await sum("select sum(revenue_nanos) from revenue_rollups"),
    await sum(
      "select sum(amount_nanos) from ledger_transfers " +
        "where source_type = 'usage' and credit_kind = 'clearing'",
    ),
    await sum(
      "select sum(credits_nanos - debits_nanos) from ledger_accounts " +
        "where kind in ('payable', 'platform_fee')",
    ),
  ];
}

/** From a session of its own: in a transaction the activity of others is read once. */
function isAppendWaiting(app: App): Promise<boolean> {
  return asSuperuser(app, async (client) => {
    const { rowCount } = await client.query(
      "select from pg_stat_activity where datname = current_database() " +
        "and wait_event_type = 'Lock' and query like '%journal_head%'",
    );
    return rowCount === 1;
  });
}

test("a process that stops while it appends keeps nobody from appending for long", async () => {
  await using books = await openBooks();
  const entry = usage({ account: newAccountId(), developer: newAccountId() });
  const stopped = Promise.withResolvers<void>();
  const appended = Promise.withResolvers<void>();
  const holder = books.db.systemTransaction(async (tx) => {
    await books.journal.appendIn(tx, [entry]);
    appended.resolve();
    await stopped.promise;
  });
  holder.catch(() => {});
  await appended.promise;

  const begun = performance.now();
  const { position } = await books.journal.append([entry]);

  expect(performance.now() - begun).toBeLessThan(10_000);
  expect(position).toBe(1n);
  stopped.resolve();
  await expect(holder).rejects.toThrow();
});
