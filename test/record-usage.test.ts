import { randomUUID } from "node:crypto";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import pg from "pg";
import { expect, test as plain } from "vitest";
import { ServiceTokenService } from "../gen/callora/accounts/v1/service_token_service_pb.ts";
import { CatalogService } from "../gen/callora/catalog/v1/catalog_service_pb.ts";
import {
  MeteringService,
  UsageEventSchema,
  UsageOutcome,
} from "../gen/callora/metering/v1/metering_service_pb.ts";
import { ErrorInfoSchema, RetryInfoSchema } from "../gen/google/rpc/error_details_pb.ts";
import { rememberAccounts } from "../src/accounts/known.ts";
import { rememberPrices } from "../src/catalog/prices.ts";
import type { Database } from "../src/db/database.ts";
import { createProgress } from "../src/metering/applied.ts";
import { takeEvents } from "../src/metering/door.ts";
import { shardCount } from "../src/metering/entry.ts";
import { createJournal } from "../src/metering/journal.ts";
import { createMonthUnits } from "../src/metering/month-units.ts";
import { must, openTestTrust, startTestApp, until } from "./support/app.ts";
import { newAccountId } from "./support/books.ts";
import { newPerson } from "./support/people.ts";
import { asSuperuser } from "./support/superuser.ts";
import { test } from "./support/test.ts";
import { makeServiceToken } from "./support/tokens.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;
type Event = MessageInitShape<typeof UsageEventSchema>;

const price = 1_000_000n;
const { ACCEPTED, REJECTED, APPLIED, DUPLICATE, CONFLICT, QUARANTINED } = UsageOutcome;

/** A service that records the use of an API. */
async function setUp(app: App) {
  const developer = await newPerson(app.db, "developer");
  const consumer = await newPerson(app.db);
  const api = await app.api(developer, { callNanos: price });
  const { token } = await makeServiceToken(app.db, ["usage.record"]);
  const transport = createGrpcTransport({
    baseUrl: app.url,
    interceptors: [
      (next) => (req) => {
        req.header.set("authorization", `Bearer ${token}`);
        return next(req);
      },
    ],
  });
  const event = (more: Event = {}): Event => ({
    source: "urn:test",
    id: randomUUID(),
    accountId: consumer.accountId,
    apiId: api.id,
    ...more,
  });
  const metering = createClient(MeteringService, transport);
  const own = app.client(MeteringService, consumer.token);
  const get = async ({ source = "", id = "" }: Event) => (await own.getEvent({ source, id })).event;
  return { developer, consumer, api, metering, event, get };
}

const wait = durationFromMs(10_000);

function outcomes({ results }: { results: { outcome: UsageOutcome }[] }): UsageOutcome[] {
  return results.map(({ outcome }) => outcome);
}

async function entriesInJournal(app: App): Promise<number> {
  const { rows } = await asSuperuser(app, (client) =>
    client.query("select coalesce(sum(entries), 0)::int as entries from usage_journal"),
  );
  return rows[0].entries;
}

/** Hold a lock until it is let go, as a slow session would. */
async function hold(app: App, text: string) {
  const client = new pg.Client({ connectionString: app.urls.superuser });
  await client.connect();
  await client.query("begin");
  await client.query(text);
  return { [Symbol.asyncDispose]: () => client.end() };
}

const holdProjectors = "select from projector_cursors for update";
const holdJournal = "select from journal_head for update";

test("one event that is wrong refuses an atomic request whole", async ({ app }) => {
  const { metering, event } = await setUp(app);
  const before = await entriesInJournal(app);

  const call = metering.recordUsage({ events: [event(), event({ accountId: newAccountId() })] });

  await expect(call).rejects.toThrow(/events\[1\]\.account_id: no such account/);
  expect(await entriesInJournal(app)).toBe(before);
});

test("a partial request is taken but for the events that are wrong, and says why", async ({
  app,
}) => {
  const { metering, event, get } = await setUp(app);
  const good = [event(), event({ data: '{"tokens": 12.10}', units: 3n })];
  const bad: [Event, string][] = [
    [event({ source: "" }), "source"],
    [event({ id: "a\0b" }), "id"],
    [event({ accountId: newAccountId() }), "account_id"],
    [event({ apiId: "api_x" }), "api_id"],
    [event({ time: { seconds: 0n, nanos: -1 } }), "time"],
    [event({ time: { seconds: 1n } }), "time"],
    [event({ statusCode: 600 }), "status_code"],
    [event({ data: "[]" }), "data"],
    [event({ source: "gateway" }), "source"],
  ];

  const events = [must(good[0]), ...bad.map(([one]) => one), must(good[1])];
  const answer = await metering.recordUsage({ events, partial: true });

  expect(outcomes(answer)).toEqual([ACCEPTED, ...bad.map(() => REJECTED), ACCEPTED]);
  const fields = answer.results.map(({ violations }) =>
    violations.map(({ field }) => field).join(),
  );
  expect(fields).toEqual(["", ...bad.map(([, field]) => field), ""]);
  expect(answer.results.at(0)).toMatchObject({ position: answer.position, ordinal: 0 });
  expect(answer.results.at(-1)).toMatchObject({ position: answer.position, ordinal: 1 });
  await app.applied();
  expect(await get(must(good[1]))).toMatchObject({
    position: answer.position,
    ordinal: 1,
    event: { data: '{"tokens": 12.10}', units: 3n },
  });
});

test("a partial request of which nothing is right records nothing", async ({ app }) => {
  const { metering, event } = await setUp(app);
  const before = await entriesInJournal(app);

  const events = [event({ id: "" })];
  const answer = await metering.recordUsage({ events, partial: true, waitForProjection: wait });

  expect(outcomes(answer)).toEqual([REJECTED]);
  expect(answer.position).toBe(0n);
  expect(await entriesInJournal(app)).toBe(before);
});

test("an atomic request that does not wait has no results, and its position", async ({ app }) => {
  const { metering, event, get } = await setUp(app);
  const one = event();

  const { position, results, watermark } = await metering.recordUsage({ events: [one] });

  expect(results).toEqual([]);
  expect(watermark).toBeLessThan(position);
  await app.applied();
  expect(must(await get(one)).position).toBe(position);
});

test("who waits hears what became of each event", async ({ app }) => {
  const { metering, event, get } = await setUp(app);
  const other = await newPerson(app.db);
  const first = event();
  const elsewhere = event({ accountId: other.accountId });
  await metering.recordUsage({ events: [first], waitForProjection: wait });

  const again = event();
  const answer = await metering.recordUsage({
    events: [first, { ...first, endpoint: "GET /b" }, again, again, elsewhere, event({ id: "" })],
    partial: true,
    waitForProjection: wait,
  });

  expect(outcomes(answer)).toEqual([DUPLICATE, CONFLICT, APPLIED, DUPLICATE, APPLIED, REJECTED]);
  expect(answer.watermark).toBeGreaterThanOrEqual(answer.position);
  expect(must(await get(again)).position).toBe(answer.results[2]?.position);
});

test("who waits hears of an event that was kept aside", async ({ app }) => {
  const { metering, event, consumer } = await setUp(app);
  await asSuperuser(app, (client) =>
    client.query("insert into debt_limits (account_id, limit_nanos) values ($1, 0)", [
      consumer.accountId,
    ]),
  );

  const answer = await metering.recordUsage({ events: [event()], waitForProjection: wait });

  expect(outcomes(answer)).toEqual([QUARANTINED]);
});

test("who waits in vain hears that the events are durable", async ({ app }) => {
  const { metering, event, get } = await setUp(app);
  const one = event();
  {
    await using _ = await hold(app, holdProjectors);
    const started = performance.now();
    const waitForProjection = durationFromMs(200);
    const answer = await metering.recordUsage({ events: [one], waitForProjection });

    expect(outcomes(answer)).toEqual([ACCEPTED]);
    expect(answer.watermark).toBeLessThan(answer.position);
    expect(performance.now() - started).toBeGreaterThan(190);
  }
  await app.applied();
  expect(await get(one)).toMatchObject({ chargedNanos: price });
});

test.for([{ seconds: 10n, nanos: 1 }, { seconds: -1n }])(
  "a wait of %o is refused",
  async (waitForProjection, { app }) => {
    const { metering, event } = await setUp(app);

    const call = metering.recordUsage({ events: [event()], waitForProjection });

    await expect(call).rejects.toThrow(/wait_for_projection/);
  },
);

test("after a change of the price, the new one is charged", async ({ app }) => {
  const { metering, event, get, api, developer } = await setUp(app);
  const catalog = app.client(CatalogService, developer.token);
  const events = [event(), event(), event()];

  await metering.recordUsage({ events: [must(events[0])] });
  await catalog.updateApi({ apiId: api.id, callNanos: 5n });
  await metering.recordUsage({ events: [must(events[1])] });
  await catalog.updateApi({ apiId: api.id, name: "Another name" });
  await metering.recordUsage({ events: [must(events[2])] });

  await app.applied();
  const applied = await Promise.all(events.map(get));
  expect(applied.map((one) => [must(one).chargedNanos, must(one).priceVersion])).toEqual([
    [price, 1],
    [5n, 2],
    [5n, 2],
  ]);
});

test("what is durable is accepted, though nobody can say what became of it", async ({ app }) => {
  const { metering, event } = await setUp(app);
  await asSuperuser(app, (client) =>
    client.query("revoke select on usage_quarantine from callora_worker"),
  );

  const answer = await metering.recordUsage({ events: [event()], waitForProjection: wait });
  await asSuperuser(app, (client) =>
    client.query("grant select on usage_quarantine to callora_worker"),
  );

  expect(outcomes(answer)).toEqual([ACCEPTED]);
  expect(answer.position).toBeGreaterThan(0n);
});

async function* streamed<T>(messages: readonly T[]) {
  yield* messages;
}

test("a stream is answered when all that was accepted is durable", async ({ app }) => {
  const { metering, event, consumer } = await setUp(app);
  const messages = Array.from({ length: 20 }, () => ({
    events: [event(), event({ id: "" }), event()],
    partial: true,
  }));

  const answer = await metering.streamUsage(streamed(messages));

  expect(answer).toMatchObject({ accepted: 40n, rejected: 20n });
  expect(answer.refusals.map(({ index }) => Number(index))).toEqual(
    messages.map((_, index) => index * 3 + 1),
  );
  expect(answer.refusals[0]?.violations).toMatchObject([{ field: "id" }]);
  await app.applied();
  const { rows } = await asSuperuser(app, (client) =>
    client.query(
      "select count(*)::int as events, max(position)::text as last from usage_events where account_id = $1",
      [consumer.accountId],
    ),
  );
  expect(rows).toEqual([{ events: 40, last: String(answer.position) }]);
});

test("a stream tells of its first hundred refusals", async ({ app }) => {
  const { metering, event } = await setUp(app);
  const events = Array.from({ length: 150 }, () => event({ id: "" }));

  const answer = await metering.streamUsage(streamed([{ events, partial: true }]));

  expect(answer).toMatchObject({ accepted: 0n, rejected: 150n, position: 0n });
  expect(answer.refusals).toHaveLength(100);
});

test("a stream ends at the first message with a wrong event, unless it is partial", async ({
  app,
}) => {
  const { metering, event, get } = await setUp(app);
  const first = event();

  const call = metering.streamUsage(
    streamed([{ events: [first] }, { events: [event(), event({ id: "" })] }]),
  );

  await expect(call).rejects.toThrow(/events\[1\]\.id/);
  await app.applied();
  expect(await get(first)).toMatchObject({ chargedNanos: price });
});

test("a stream's answer says how far the journal is applied", async ({ app }) => {
  const { metering, event } = await setUp(app);
  const { position } = await metering.streamUsage(streamed([{ events: [event()] }]));
  await app.applied();

  const later = await metering.streamUsage(streamed([{ events: [event()] }]));
  const empty = await metering.streamUsage(streamed([]));

  expect(later.watermark).toBeGreaterThanOrEqual(position);
  expect(empty.watermark).toBeGreaterThanOrEqual(position);
});

test("a stream ends soon after its service's token is revoked", async ({ app }) => {
  const { event } = await setUp(app);
  const { id: serviceTokenId, token } = await makeServiceToken(app.db, ["usage.record"]);
  const admin = await app.admin();
  const isSent = Promise.withResolvers<void>();
  const isOver = Promise.withResolvers<void>();
  async function* messages() {
    yield { events: [event()] };
    isSent.resolve();
    // The sender says no more, and keeps the stream open.
    await isOver.promise;
  }

  const call = app.client(MeteringService, token).streamUsage(messages());
  const end = call.then(
    () => undefined,
    (error) => ConnectError.from(error).code,
  );
  await isSent.promise;
  await app.client(ServiceTokenService, admin.token).revokeServiceToken({ serviceTokenId });

  expect(await end).toBe(Code.Unauthenticated);
  isOver.resolve();
});

test("an empty stream records nothing", async ({ app }) => {
  const { metering } = await setUp(app);

  expect(await metering.streamUsage(streamed([]))).toMatchObject({ accepted: 0n, position: 0n });
});

plain(
  "knows accounts and prices by heart: it asks the database for nothing but the append",
  async () => {
    await using app = await startTestApp();
    await using trust = Object.assign(await openTestTrust(app.db, app.urls), {
      [Symbol.asyncDispose]: () => trust.close(),
    });
    const { event } = await setUp(app);
    let asked = 0;
    const counting: Database = {
      ...app.db,
      systemTransaction(work) {
        asked += 1;
        return app.db.systemTransaction(work);
      },
      systemStatement(work) {
        asked += 1;
        return app.db.systemStatement(work);
      },
    };
    const deps = {
      db: counting,
      journal: createJournal({ db: counting, onAppended: () => {} }),
      progress: createProgress({ readCursors: async () => [], onError() {} }),
      shards: shardCount,
      monthUnits: createMonthUnits({ db: counting }),
      prices: rememberPrices({ db: counting, trust }),
      findMissingAccounts: rememberAccounts({ db: counting }),
      now: () => new Date(),
    };
    const take = () =>
      takeEvents(deps, [{ event: create(UsageEventSchema, event()) }], { partial: false });

    await take();
    expect(asked).toBe(3);
    await take();
    await take();

    expect(asked).toBe(5);
  },
);

plain("when too many events wait to be written, more are refused and none is lost", async () => {
  await using app = await startTestApp();
  const { metering, event } = await setUp(app);
  await metering.recordUsage({ events: [event()] });
  const calls: Promise<unknown>[] = [];
  let busy = 0;
  const refused = (thrown: unknown) => {
    const error = ConnectError.from(thrown);
    busy += reasonOf(error) === "JOURNAL_BUSY" ? 1 : 0;
    return error;
  };
  {
    await using _ = await hold(app, holdJournal);
    while (busy === 0 && calls.length < 100) {
      const events = Array.from({ length: 500 }, () => event());
      calls.push(metering.recordUsage({ events }).catch(refused));
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    await until(() => busy > 0);
  }
  const answers = await Promise.all(calls);
  const errors = answers.filter((answer) => answer instanceof ConnectError);

  for (const error of errors) {
    // A machine that is slow may also lose trust in what it remembers.
    expect(error.code).toBe(Code.Unavailable);
    expect(error.findDetails(RetryInfoSchema)).toHaveLength(1);
  }
  expect(await entriesInJournal(app)).toBe(1 + (calls.length - errors.length) * 500);
});

function reasonOf(error: ConnectError): string | undefined {
  return error.findDetails(ErrorInfoSchema)[0]?.reason;
}
