import { Code, ConnectError } from "@connectrpc/connect";
import { expect } from "vitest";
import { AnalyticsService } from "../gen/callora/analytics/v1/analytics_service_pb.ts";
import { type Entry, timeText } from "../src/metering/entry.ts";
import { createJournal, getWatermark } from "../src/metering/journal.ts";
import { must, type startTestApp, until } from "./support/app.ts";
import { newApiId, projectAll, seeded, usage } from "./support/books.ts";
import { newPerson, type SignedIn } from "./support/people.ts";
import { test } from "./support/test.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;

/** Put events into the journal, and wait until they are applied. */
async function record(app: App, events: Entry[]): Promise<bigint> {
  const journal = createJournal({ db: app.db, onAppended: () => {} });
  const { position } = await journal.append(events);
  await projectAll(app.db);
  await until(async () => (await app.db.systemTransaction(getWatermark)).applied >= position);
  return position;
}

async function people(app: App, count: number): Promise<SignedIn[]> {
  return Promise.all(Array.from({ length: count }, () => newPerson(app.db, "developer")));
}

function client(app: App, { token }: SignedIn) {
  return app.client(AnalyticsService, token);
}

test("a consumer's sums are those of the events, by API, real money only", async ({ app }) => {
  const [consumer, other, developer] = (await people(app, 3)) as [SignedIn, SignedIn, SignedIn];
  const [first, second] = [newApiId(), newApiId()];
  const of = { account: consumer.accountId, developer: developer.accountId };

  const position = await record(app, [
    usage({ ...of, api: first, charged: "5" }),
    usage({ ...of, api: first, charged: "0", status: 500 }),
    usage({ ...of, api: second, charged: "7", status: 404 }),
    usage({ ...of, api: first, charged: "9", mode: "test" }),
    usage({ ...of, api: first, charged: "11", account: other.accountId }),
  ]);

  const range = { from: "2026-11-20", to: "2026-11-20" };
  const sums = await client(app, consumer).getUsage(range);
  expect(sums).toMatchObject({ calls: 3, errors: 2, chargedNanos: 12n });
  expect(sums.apis).toMatchObject([
    { apiId: first, calls: 2, chargedNanos: 5n },
    { apiId: second, calls: 1, chargedNanos: 7n },
  ]);
  expect(sums.watermark).toBeGreaterThanOrEqual(position);
  expect(await client(app, consumer).getUsage({ ...range, apiId: second })).toMatchObject({
    calls: 1,
    chargedNanos: 7n,
  });
  expect(await client(app, other).getUsage(range)).toMatchObject({ calls: 1, chargedNanos: 11n });
});

test("a range holds its first day and its last one, to the last quarter of an hour", async ({
  app,
}) => {
  const [consumer, developer] = (await people(app, 2)) as [SignedIn, SignedIn];
  const of = { account: consumer.accountId, developer: developer.accountId };
  const times = [
    "2026-10-04T23:59:59.999Z",
    "2026-10-05T00:00:00.000Z",
    "2026-10-11T23:59:59.999Z",
    "2026-10-12T00:00:00.000Z",
  ];
  await record(
    app,
    times.map((time, index) => usage({ ...of, time, charged: String(10 ** index) })),
  );

  const sum = async (from: string, to: string) =>
    (await client(app, consumer).getUsage({ from, to })).chargedNanos;

  expect(await sum("2026-10-05", "2026-10-11")).toBe(110n);
  expect(await sum("2026-10-05T00:00:00Z", "2026-10-11T23:59:59Z")).toBe(110n);
  expect(await sum("2026-10-04", "2026-10-12")).toBe(1_111n);
  expect(await sum("2026-10-05T02:00:00+02:00", "2026-10-05")).toBe(10n);
  expect(await sum("2026-10-06", "2026-10-10")).toBe(0n);
});

test("a developer's revenue is summed by day, week from Monday, and month", async ({ app }) => {
  const [consumer, developer] = (await people(app, 2)) as [SignedIn, SignedIn];
  const of = { account: consumer.accountId, developer: developer.accountId };
  await record(app, [
    usage({ ...of, time: "2026-08-30T23:59:00Z", charged: "1" }),
    usage({ ...of, time: "2026-08-31T00:00:00Z", charged: "10" }),
    usage({ ...of, time: "2026-09-06T23:59:00Z", charged: "100" }),
    usage({ ...of, time: "2026-09-07T00:00:00Z", charged: "1000" }),
    usage({ ...of, time: "2026-09-07T12:00:00Z", charged: "10000", mode: "test" }),
  ]);

  const by = async (groupBy: string) => {
    const { data } = await client(app, developer).getDeveloperAnalytics({
      from: "2026-08-01",
      to: "2026-09-30",
      groupBy,
    });
    return data.map(({ period, calls, revenue }) => [period, calls, revenue]);
  };

  expect(await by("")).toEqual([
    ["2026-08-30", 1, 1n],
    ["2026-08-31", 1, 10n],
    ["2026-09-06", 1, 100n],
    ["2026-09-07", 1, 1000n],
  ]);
  expect(await by("week")).toEqual([
    ["2026-08-24", 1, 1n],
    ["2026-08-31", 2, 110n],
    ["2026-09-07", 1, 1000n],
  ]);
  expect(await by("month")).toEqual([
    ["2026-08-01", 2, 11n],
    ["2026-09-01", 2, 1100n],
  ]);
});

test("the busiest come first, five at most, under names that no two developers share", async ({
  app,
}) => {
  const [developer, rival, ...consumers] = (await people(app, 8)) as [SignedIn, SignedIn];
  const events = [developer, rival].flatMap((to) =>
    (consumers as SignedIn[]).flatMap(({ accountId }, index) =>
      Array.from({ length: index + 1 }, () =>
        usage({
          account: accountId,
          developer: to.accountId,
          endpoint: `GET /${index}`,
          time: "2026-07-01T00:00:00Z",
        }),
      ),
    ),
  );
  await record(app, events);
  const top = (person: SignedIn) =>
    client(app, person).getDeveloperAnalytics({
      from: "2026-07-01",
      to: "2026-07-01",
      includeTop: true,
    });

  const [first, again, other] = [await top(developer), await top(developer), await top(rival)];

  expect(first.topEndpoints.map(({ endpoint, calls }) => [endpoint, calls])).toEqual([
    ["GET /5", 6],
    ["GET /4", 5],
    ["GET /3", 4],
    ["GET /2", 3],
    ["GET /1", 2],
  ]);
  expect(first.topUsers.map(({ calls }) => calls)).toEqual([6, 5, 4, 3, 2]);
  expect(again.topUsers).toEqual(first.topUsers);
  const names = [...first.topUsers, ...other.topUsers].map(({ userId }) => userId);
  expect(new Set(names).size).toBe(10);
  for (const { accountId } of consumers as SignedIn[]) {
    expect(JSON.stringify(names)).not.toContain(accountId);
  }
});

test("a developer sees no other developer's API, nor whether there is one", async ({ app }) => {
  const [developer, rival] = (await people(app, 2)) as [SignedIn, SignedIn];
  const api = await app.api(developer);
  const ask = (apiId: string) =>
    client(app, rival)
      .getDeveloperAnalytics({ from: "2026-07-01", to: "2026-07-01", apiId })
      .then(() => undefined, ConnectError.from);

  const [known, unknown] = [await ask(api.id), await ask(newApiId())];

  expect(known).toMatchObject({ code: Code.PermissionDenied });
  expect(unknown?.message).toBe(known?.message);
});

test.for([
  [{ from: "2026-02-30", to: "2026-03-01" }, "from"],
  [{ from: "2026-03-02", to: "2026-03-01" }, "from"],
  [{ from: "2024-01-01", to: "2026-03-01" }, "from"],
  [{ from: "2026-03-01", to: "tomorrow" }, "to"],
] as const)("the range %j is refused by its field", async ([range, field], { app }) => {
  const [consumer] = (await people(app, 1)) as [SignedIn];

  const error = await client(app, consumer)
    .getUsage(range)
    .then(() => undefined, ConnectError.from);

  expect(error).toMatchObject({ code: Code.InvalidArgument });
  expect(must(error).message).toContain(field);
});

const seed = Number(process.env.CALLORA_TEST_SEED ?? Date.now() % 1_000_000);

test(`both sides' sums are those of the events, however these were batched (seed ${seed})`, async ({
  app,
}) => {
  const random = seeded(seed);
  const [consumer, developer] = (await people(app, 2)) as [SignedIn, SignedIn];
  const startMs = Date.parse("2026-05-01T00:00:00Z");
  const events = Array.from({ length: 300 }, () =>
    usage({
      account: consumer.accountId,
      developer: developer.accountId,
      endpoint: `GET /${Math.floor(random() * 4)}`,
      status: random() < 0.2 ? 500 : 200,
      charged: String(Math.floor(random() * 1_000)),
      time: new Date(startMs + Math.floor(random() * 40 * 86_400_000)).toISOString(),
    }),
  );
  const left = [...events];
  while (left.length > 0) {
    const batch = left.splice(0, 1 + Math.floor(random() * 90));
    await record(app, [...batch, ...batch.slice(0, 3)]);
  }

  const sums = await client(app, consumer).getUsage({ from: "2026-05-01", to: "2026-06-30" });
  const { data } = await client(app, developer).getDeveloperAnalytics({
    from: "2026-05-01",
    to: "2026-06-30",
  });

  const total = events.reduce((sum, { chargedNanos }) => sum + chargedNanos, 0n);
  const errors = events.filter(({ status }) => status === 500).length;
  expect(sums, `seed ${seed}`).toMatchObject({ calls: 300, errors, chargedNanos: total });
  const byDay = new Map<string, bigint>();
  for (const { timeMicros, chargedNanos } of events) {
    const day = timeText(timeMicros).slice(0, 10);
    byDay.set(day, (byDay.get(day) ?? 0n) + chargedNanos);
  }
  expect(new Map(data.map(({ period, revenue }) => [period, revenue])), `seed ${seed}`).toEqual(
    new Map([...byDay].sort()),
  );
});
