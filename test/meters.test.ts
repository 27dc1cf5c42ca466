import { randomUUID } from "node:crypto";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { type Timestamp, timestampDate, timestampFromDate } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import { expect } from "vitest";
import { Mode } from "../gen/callora/keys/v1/key_pb.ts";
import { KeyService } from "../gen/callora/keys/v1/key_service_pb.ts";
import { CorrectionService } from "../gen/callora/metering/v1/correction_service_pb.ts";
import {
  Aggregation,
  type CreateMeterRequestSchema,
  MeterService,
  MeterSide,
  MeterState,
  type QueryMeterRequestSchema,
  WindowSize,
} from "../gen/callora/metering/v1/meter_service_pb.ts";
import {
  MeteringService,
  type UsageEventSchema,
} from "../gen/callora/metering/v1/metering_service_pb.ts";
import { must, type startTestApp, until } from "./support/app.ts";
import { newPerson, type SignedIn } from "./support/people.ts";
import { restOf } from "./support/rest.ts";
import { asSuperuser } from "./support/superuser.ts";
import { test } from "./support/test.ts";

type App = Awaited<ReturnType<typeof startTestApp>>;
type Draft = MessageInitShape<typeof CreateMeterRequestSchema>;
type Question = Omit<MessageInitShape<typeof QueryMeterRequestSchema>, "$typeName">;
type Event = MessageInitShape<typeof UsageEventSchema>;

const quarterMs = 15 * 60_000;
const dayMs = 24 * 60 * 60_000;

/** A quarter of an hour that is some days past. */
const start = new Date(Math.floor((Date.now() - 3 * dayMs) / dayMs) * dayMs);
const at = (ms: number): Timestamp => timestampFromDate(new Date(start.getTime() + ms));
const wholeDay = { startTime: at(0), endTime: at(dayMs) };

async function setUp(app: App) {
  const [developer, consumer] = [await newPerson(app.db, "developer"), await newPerson(app.db)];
  const api = await app.api(developer, { callNanos: 0n });
  const service = await app.admin();
  return {
    developer,
    consumer,
    api,
    async record(...events: Event[]) {
      await app.client(MeteringService, service.token).recordUsage({
        events: events.map((event) => ({
          source: "urn:test",
          id: randomUUID(),
          accountId: consumer.accountId,
          apiId: api.id,
          time: at(0),
          ...event,
        })),
      });
      await app.applied();
    },
  };
}

async function createMeter(app: App, { token }: SignedIn, draft: Draft = {}): Promise<string> {
  const meters = app.client(MeterService, token);
  const { meter } = await meters.createMeter({
    slug: `m${randomUUID()}`,
    aggregation: Aggregation.SUM,
    valuePath: draft.aggregation === Aggregation.COUNT ? "" : "$.v",
    ...draft,
  });
  const { id: meterId } = must(meter);
  await until(async () => (await meters.getMeter({ meterId })).meter?.state === MeterState.ACTIVE);
  return meterId;
}

async function ask(app: App, { token }: { token: string }, question: Question) {
  const { values } = await app.client(MeterService, token).queryMeter({ ...wholeDay, ...question });
  return values.map(({ startTime, endTime, groups, value, events, skipped }) => ({
    hours:
      (timestampDate(must(endTime)).getTime() - timestampDate(must(startTime)).getTime()) /
      3_600_000,
    groups,
    value,
    events,
    skipped,
  }));
}

async function errorOf(call: Promise<unknown>): Promise<ConnectError> {
  return ConnectError.from(
    await call.then(
      () => new Error("not refused"),
      (error) => error,
    ),
  );
}

test("a meter counts what was there before it and what comes after it, exactly", async ({
  app,
}) => {
  const { consumer, record } = await setUp(app);
  await record({ data: '{"v":0.1}' });
  const meterId = await createMeter(app, consumer);
  await record({ data: '{"v":"0.2"}' }, { data: '{"v":"much"}' }, { data: "" });

  expect(await ask(app, consumer, { meterId })).toEqual([
    { hours: 24, groups: {}, value: "0.3", events: 2n, skipped: 2n },
  ]);
});

test("a meter is asked by groups, by windows, and for some groups only", async ({ app }) => {
  const { consumer, record } = await setUp(app);
  const meterId = await createMeter(app, consumer, {
    groups: [
      { name: "model", path: "$.model" },
      { name: "status", path: "status_code" },
    ],
    filters: [{ path: "$.v", values: ["1000"], exclude: true }],
  });
  await record(
    { data: '{"v":1,"model":"a"}' },
    { data: '{"v":2,"model":"a"}', statusCode: 404, time: at(quarterMs) },
    { data: '{"v":4,"model":"b"}', time: at(dayMs / 2) },
    { data: '{"v":8}', time: at(dayMs / 2) },
    { data: '{"v":1000,"model":"a"}' },
  );
  const half = { startTime: at(0), endTime: at(dayMs / 2 + quarterMs) };
  const shown = async (question: Question) =>
    (await ask(app, consumer, { meterId, ...half, ...question })).map(({ groups, value }) => [
      groups,
      value,
    ]);

  expect(await shown({})).toEqual([[{}, "15"]]);
  expect(await shown({ groupBy: ["model"] })).toEqual([
    [{ model: "" }, "8"],
    [{ model: "a" }, "3"],
    [{ model: "b" }, "4"],
  ]);
  expect(await shown({ groupBy: ["status", "model"] })).toEqual([
    [{ model: "", status: "200" }, "8"],
    [{ model: "a", status: "200" }, "1"],
    [{ model: "b", status: "200" }, "4"],
    [{ model: "a", status: "404" }, "2"],
  ]);
  expect(await shown({ filters: [{ path: "model", values: ["a", "c"] }] })).toEqual([[{}, "3"]]);
  expect(
    await shown({
      filters: [{ path: "model", values: ["a"], exclude: true }],
      groupBy: ["status"],
      windowSize: WindowSize.HOUR,
    }),
  ).toEqual([[{ status: "200" }, "12"]]);
  const hours = await shown({ windowSize: WindowSize.HOUR });
  expect(hours).toHaveLength(13);
  expect(hours.map(([, value]) => value)).toEqual(["3", ...Array(11).fill(""), "12"]);
});

test("minutes say what hours say, on either side", async ({ app }) => {
  const { consumer, developer, record } = await setUp(app);
  const filters = [{ path: "status_code", values: ["200"] }];
  const used = await createMeter(app, consumer, { filters });
  const served = await createMeter(app, developer, { filters, side: MeterSide.DEVELOPER });
  await record(
    { data: '{"v":1}', time: at(0) },
    { data: '{"v":2}', time: at(59_999) },
    { data: '{"v":4}', time: at(60_000) },
    { data: '{"v":8}', time: at(60_000), test: true },
    { data: '{"v":16}', time: at(60_000), statusCode: 500 },
  );
  const range = { startTime: at(0), endTime: at(quarterMs) };

  for (const [person, meterId] of [
    [consumer, used],
    [developer, served],
  ] as const) {
    const minutes = await ask(app, person, { meterId, ...range, windowSize: WindowSize.MINUTE });
    expect(minutes.map(({ value }) => value)).toEqual(["3", "4", ...Array(13).fill("")]);
    const [whole] = await ask(app, person, { meterId, ...range });
    expect(whole).toMatchObject({ value: "7", events: 3n });
  }
});

test("an account meters its own use and its own APIs, and nothing else", async ({ app }) => {
  const { consumer, developer, record, api } = await setUp(app);
  const other = await setUp(app);
  const count = { aggregation: Aggregation.COUNT };
  const people = [consumer, developer, other.consumer, other.developer];
  const ids: { person: SignedIn; side: string; meterId: string }[] = [];
  for (const person of people) {
    for (const side of ["CONSUMER", "DEVELOPER"] as const) {
      const meterId = await createMeter(app, person, { ...count, side: MeterSide[side] });
      ids.push({ person, side, meterId });
    }
  }
  await record({}, {}, { accountId: other.consumer.accountId });
  await other.record({ apiId: api.id });

  const found = await Promise.all(
    ids.map(async ({ person, meterId }) => (await ask(app, person, { meterId }))[0]?.value),
  );

  expect(found).toEqual(["2", "0", "0", "4", "2", "0", "0", "0"]);
});

test("a developer's meter does not show consumers' keys", async ({ app }) => {
  const { developer } = await setUp(app);
  const groups = [{ name: "key", path: "key_id" }];

  const error = await errorOf(createMeter(app, developer, { groups, side: MeterSide.DEVELOPER }));

  expect(error).toMatchObject({ code: Code.InvalidArgument });
  expect(error.message).toContain("groups[0].path");
});

test("test events are apart, and all that a test key sees", async ({ app }) => {
  const { consumer, record, api } = await setUp(app);
  const meterId = await createMeter(app, consumer);
  await record({ data: '{"v":1}' }, { data: '{"v":2}', test: true });
  const keys = app.client(KeyService, consumer.token);
  const { secret: token } = await keys.createKey({ apiId: api.id, mode: Mode.TEST });
  const value = async (who: { token: string }, more = {}) =>
    (await ask(app, who, { meterId, ...more }))[0]?.value;

  expect(await value(consumer)).toBe("1");
  expect(await value(consumer, { test: true })).toBe("2");
  expect(await value({ token })).toBe("2");
});

test("a meter that is being built says so, and counts nothing twice", async ({ app }) => {
  const { consumer, record } = await setUp(app);
  await record({ data: '{"v":1}' });
  const meters = app.client(MeterService, consumer.token);
  const meterId = await asSuperuser(app, async (session) => {
    await session.query("begin");
    await session.query("select from projector_cursors for update");
    const draft = { slug: "built", aggregation: Aggregation.SUM, valuePath: "$.v" };
    const { meter } = await meters.createMeter(draft);
    const { id } = must(meter);

    const error = await errorOf(meters.queryMeter({ meterId: id, ...wholeDay }));

    expect(must(meter).state).toBe(MeterState.BUILDING);
    expect(error).toMatchObject({ code: Code.FailedPrecondition });
    expect(error.message).toContain("still counts");
    return id;
  });
  await until(async () => (await meters.getMeter({ meterId })).meter?.state === MeterState.ACTIVE);
  await record({ data: '{"v":2}' });
  expect((await ask(app, consumer, { meterId }))[0]?.value).toBe("3");
});

test("meters are made, listed, read and deleted over REST", async ({ app }) => {
  const { consumer } = await setUp(app);
  const rest = restOf(app, consumer);
  const draft = { slug: "tokens", aggregation: "AGGREGATION_MAX", valuePath: "$.tokens" };

  const [created, body] = await rest("POST", "/v1/meters", draft);
  const { meter } = body as { meter: { id: string } };

  expect([created, meter]).toMatchObject([201, { ...draft, side: "METER_SIDE_CONSUMER" }]);
  expect(await rest("POST", "/v1/meters", draft)).toMatchObject([
    409,
    { message: 'Cannot create the meter: slug "tokens" is taken' },
  ]);
  expect(await rest("GET", `/v1/meters/${meter.id}`)).toMatchObject([200, { meter: draft }]);
  expect(await rest("GET", "/v1/meters")).toMatchObject([200, { meters: [{ id: meter.id }] }]);
  expect(await rest("DELETE", `/v1/meters/${meter.id}`)).toEqual([200, {}]);
  expect(await rest("DELETE", `/v1/meters/${meter.id}`)).toMatchObject([404, {}]);
  expect(await rest("GET", `/v1/meters/${meter.id}`)).toMatchObject([404, {}]);
  expect(await rest("GET", "/v1/meters")).toMatchObject([200, { meters: [] }]);
  expect(await rest("POST", "/v1/meters", draft)).toMatchObject([201, {}]);
});

test("an account has at most 50 meters", async ({ app }) => {
  const { consumer } = await setUp(app);
  const meters = app.client(MeterService, consumer.token);
  const aggregation = Aggregation.COUNT;
  for (let index = 0; index < 50; index += 1) {
    await meters.createMeter({ slug: `m${index}`, aggregation });
  }

  const error = await errorOf(meters.createMeter({ slug: "more", aggregation }));

  expect(error).toMatchObject({ code: Code.FailedPrecondition });
  const first = await meters.listMeters({ pageSize: 30 });
  const second = await meters.listMeters({ pageSize: 30, pageToken: first.nextPageToken });
  expect([first.meters.length, second.meters.length, second.nextPageToken]).toEqual([30, 20, ""]);
});

test.for<[string, Draft]>([
  ["value_path", { valuePath: "" }],
  ["value_path", { valuePath: "api_id" }],
  ["value_path", { valuePath: "$..v" }],
  ["value_path", { valuePath: "$[?(@.a == 'b')]" }],
  ["value_path", { valuePath: "$['a']); drop table meters; --" }],
  ["value_path", { valuePath: `$${".a".repeat(20)}` }],
  ["value_path", { aggregation: Aggregation.COUNT, valuePath: "$.v" }],
  ["value_path", { valuePath: `$.${"a".repeat(300)}` }],
  ["groups[0].path", { groups: [{ name: "g", path: "account_id" }] }],
  ["groups[0].path", { groups: [{ name: "g", path: "__proto__" }] }],
  ["groups[0].name", { groups: [{ name: "__proto__ ", path: "$.a" }] }],
  ["groups", { groups: ["$.a", "$.b"].map((path) => ({ name: "g", path })) }],
  ["filters[0].path", { filters: [{ path: "$.*", values: ["a"] }] }],
  ["filters[0].values", { filters: [{ path: "$.a", values: [] }] }],
  ["slug", { slug: "No Slug" }],
  ["aggregation", { aggregation: Aggregation.UNSPECIFIED }],
])("a meter is refused by its %s (%#)", async ([field, draft], { app }) => {
  const error = await errorOf(createMeter(app, await newPerson(app.db), draft));

  expect(error).toMatchObject({ code: Code.InvalidArgument });
  expect(error.message).toContain(field);
});

test.for<[string, Question]>([
  ["time_zone", { timeZone: "Mars/Base" }],
  ["time_zone", { timeZone: "+05:30" }],
  ["time_zone", { timeZone: "'; drop table meters; --" }],
  ["time_zone", { timeZone: "../../etc/passwd" }],
  ["start_time", { startTime: at(60_000) }],
  ["start_time", { startTime: { seconds: at(0).seconds, nanos: 1 } }],
  ["start_time", { startTime: timestampFromDate(new Date("1979-12-31T00:00:00Z")) }],
  ["start_time", { startTime: { seconds: -62_135_596_800n, nanos: 0 } }],
  ["end_time", { endTime: at(0) }],
  ["end_time", { endTime: at(-dayMs) }],
  ["end_time", { endTime: at(401 * dayMs) }],
  ["end_time", { endTime: at(100 * dayMs), windowSize: WindowSize.HOUR }],
  ["end_time", { endTime: at(dayMs + 60_000), windowSize: WindowSize.MINUTE }],
  ["group_by[0]", { groupBy: ["unknown"] }],
  ["group_by[0]", { groupBy: ["__proto__"] }],
  ["filters[0].path", { filters: [{ path: "$.v", values: ["a"] }] }],
])("a question is refused by its %s (%#)", async ([field, question], { app }) => {
  const person = await newPerson(app.db);
  const meterId = await createMeter(app, person, { aggregation: Aggregation.COUNT });

  const error = await errorOf(ask(app, person, { meterId, ...question }));

  expect(error).toMatchObject({ code: Code.InvalidArgument });
  expect(error.message).toContain(field);
});

test("days of a question are the zone's, 25 hours when its clock is put back", async ({ app }) => {
  const person = await newPerson(app.db);
  const meterId = await createMeter(app, person, { aggregation: Aggregation.COUNT });
  const days = await ask(app, person, {
    meterId,
    startTime: timestampFromDate(new Date("2025-11-01T04:00:00Z")),
    endTime: timestampFromDate(new Date("2025-11-04T05:00:00Z")),
    windowSize: WindowSize.DAY,
    timeZone: "America/New_York",
  });

  expect(days.map(({ hours, value }) => [hours, value])).toEqual([
    [24, "0"],
    [25, "0"],
    [24, "0"],
  ]);
});

test("whatever data holds, no event stops the ones behind it", async ({ app }) => {
  const { consumer, record } = await setUp(app);
  const meterId = await createMeter(app, consumer, {
    aggregation: Aggregation.UNIQUE_COUNT,
    groups: [{ name: "g", path: "$.g" }],
  });
  const hostile = [
    `{"g":"\\u0000","v":"\\u0000"}`,
    `{"g":"\\ud800","v":"\\udfff"}`,
    `{"g":"\\ud801","v":1}`,
    `{"g":"${"x".repeat(16_000)}","v":1}`,
    `{"g":"${"x".repeat(15_999)}y","v":1}`,
    `{"v":${"9".repeat(16_000)},"g":1}`,
    '{"v":1e-999999999999,"g":1}',
    '{"__proto__":{"v":1},"g":"__proto__"}',
    '{"v":1,"g":"__proto__"}',
  ];
  await record(...hostile.map((data) => ({ data })));

  const values = await ask(app, consumer, { meterId, groupBy: ["g"] });

  const shown = values.map(({ groups, value, skipped }) => [
    groups.g?.slice(0, 20),
    value,
    skipped,
  ]);
  expect(shown.sort()).toEqual(
    [
      ["1", "1", 1n],
      ["__proto__", "1", 1n],
      ["x".repeat(20), "1", 0n],
      ["x".repeat(20), "1", 0n],
      ["\uFFFD", "3", 0n],
    ].sort(),
  );
});

test("groups beyond 10,000 are counted together, and an answer of more values is refused", async ({
  app,
}) => {
  const { consumer, record } = await setUp(app);
  const groups = [{ name: "g", path: "$.g" }];
  const meterId = await createMeter(app, consumer, { groups });
  await record({ data: '{"g":"first","v":1}' });
  await asSuperuser(app, (session) =>
    session.query(
      `insert into meter_groups (account_id, meter_id, group_key, texts)
       select $1, $2, number, jsonb_build_array(number::text) from generate_series(1, 9998) as number`,
      [consumer.accountId, meterId],
    ),
  );
  await record({ data: '{"g":"last","v":2}' });
  await record(
    { data: '{"g":"a","v":4}' },
    { data: '{"g":"b","v":8}' },
    { data: '{"g":"first","v":16}' },
  );
  const shown = async (windowSize: WindowSize) =>
    (
      await ask(app, consumer, {
        meterId,
        groupBy: ["g"],
        windowSize,
        endTime: at(quarterMs),
      })
    ).map(({ groups: { g }, value }) => [g, value]);

  const expected = [
    ["first", "17"],
    ["last", "2"],
    ["…", "12"],
  ];
  expect(await shown(WindowSize.HOUR)).toEqual(expected);
  expect(await shown(WindowSize.MINUTE)).toEqual(expected);

  await asSuperuser(app, (session) =>
    session.query(
      `insert into meter_rollups (account_id, meter_id, mode, group_key, bucket, events, skipped)
       select $1, $2, 'live', number, $3, 1, 0 from generate_series(1, 9998) as number`,
      [consumer.accountId, meterId, start],
    ),
  );
  const error = await errorOf(shown(WindowSize.HOUR));
  expect(error).toMatchObject({ code: Code.FailedPrecondition });
  expect(error.message).toContain("more than 10000 values");
});

test.for(["EST5EDT", "GMT0", "GMT+0", "Etc/GMT+5", "NZ-CHAT", "GB-Eire", "W-SU"])(
  "%s is a zone",
  async (timeZone, { app }) => {
    const person = await newPerson(app.db);
    const meterId = await createMeter(app, person, { aggregation: Aggregation.COUNT });

    expect(await ask(app, person, { meterId, timeZone })).toHaveLength(1);
  },
);

test("while a quarter of an hour is counted anew its events answer, or nobody does", async ({
  app,
}) => {
  const { consumer, record } = await setUp(app);
  const { accountId } = consumer;
  const meterId = await createMeter(app, consumer, { aggregation: Aggregation.MIN });
  await record({ data: '{"v":3}' }, { data: '{"v":2}' });
  const value = async () => (await ask(app, consumer, { meterId }))[0]?.value;
  const change = (query: string, values: unknown[]) =>
    asSuperuser(app, (session) => session.query(query, values));
  const calls = "update usage_rollups set calls = calls + $2 where account_id = $1";

  await asSuperuser(app, async (holder) => {
    // As long as the meter is held nobody counts it anew.
    await holder.query("begin");
    await holder.query("select from meters where id = $1 for update", [meterId]);
    await change("update meter_rollups set least = null where meter_id = $1", [meterId]);
    await change(
      `insert into meter_recounts (account_id, meter_id, mode, bucket)
       values ($1, $2, 'live', $3)`,
      [accountId, meterId, start],
    );
    expect(await value()).toBe("2");

    await change(calls, [accountId, 1_000_000]);
    const error = await errorOf(value());
    expect(error).toMatchObject({ code: Code.FailedPrecondition });
    expect(error.message).toContain("counts anew");
    await holder.query("commit");
  });

  // From its sums again.
  await until(async () => (await value().catch(() => "")) === "2");
  const { rows } = await change("select from meter_recounts where meter_id = $1", [meterId]);
  expect(rows).toEqual([]);
});

test("minutes of too many events are refused before one is read, and of removed ones", async ({
  app,
}) => {
  const { consumer, record } = await setUp(app);
  const meterId = await createMeter(app, consumer);
  await record({ data: '{"v":1}' });
  const minutes = { meterId, windowSize: WindowSize.MINUTE };
  await asSuperuser(app, async (session) => {
    await session.query("update usage_rollups set calls = 300000 where account_id = $1", [
      consumer.accountId,
    ]);
    await session.query(
      `insert into usage_partition_totals (
         received_month, mode, events, charged_nanos, fee_nanos, last_position
       ) values ('2020-01-01', 'live', 1, 0, 0, 1)`,
    );
  });
  const old = (text: string) => timestampFromDate(new Date(text));

  const many = await errorOf(ask(app, consumer, minutes));
  const gone = await errorOf(
    ask(app, consumer, {
      ...minutes,
      startTime: old("2020-01-10T00:00:00Z"),
      endTime: old("2020-01-10T01:00:00Z"),
    }),
  );

  expect(many).toMatchObject({ code: Code.FailedPrecondition });
  expect(many.message).toContain("200000 events");
  expect(gone).toMatchObject({ code: Code.OutOfRange });
});

test("many groups and many windows without values cost no time of the process", async ({ app }) => {
  const { consumer } = await setUp(app);
  const groups = [{ name: "g", path: "$.g" }];
  const meterId = await createMeter(app, consumer, { groups });
  await asSuperuser(app, (session) =>
    session.query(
      `insert into meter_groups (account_id, meter_id, group_key, texts)
       select $1, $2, number, jsonb_build_array(number::text) from generate_series(1, 9999) as number`,
      [consumer.accountId, meterId],
    ),
  );
  const question = { groupBy: ["g"], windowSize: WindowSize.HOUR, endTime: at(83 * dayMs) };

  const before = process.cpuUsage();
  const values = await ask(app, consumer, { meterId, ...question });
  const { user } = process.cpuUsage(before);

  expect(values).toEqual([]);
  // Twenty million empty places would take more than one second.
  expect(user / 1_000).toBeLessThan(600);
});

test("of creates at the same time no more pass than there is room for", async ({ app }) => {
  const { consumer } = await setUp(app);
  const meters = app.client(MeterService, consumer.token);
  const aggregation = Aggregation.COUNT;
  for (let index = 0; index < 48; index += 1) {
    await meters.createMeter({ slug: `m${index}`, aggregation });
  }

  const created = await asSuperuser(app, async (session) => {
    // Nobody inserts before all have begun.
    await session.query("begin");
    await session.query("lock table meters in share mode");
    const last = ["a", "b", "c", "d", "e", "f"].map((slug) =>
      meters.createMeter({ slug, aggregation }),
    );
    const all = Promise.allSettled(last);
    await until(async () => {
      const { rows } = await session.query(
        `select count(*)::int as waiting from pg_locks where not granted
         and database = (select oid from pg_database where datname = current_database())`,
      );
      return rows[0].waiting >= last.length;
    });
    await session.query("commit");
    return all;
  });

  expect(created.filter(({ status }) => status === "fulfilled")).toHaveLength(2);
});

test("an event that an admin takes back is gone from every meter's answer at once", async ({
  app,
}) => {
  const { consumer, developer, record } = await setUp(app);
  const { accountId } = consumer;
  const all = [Aggregation.SUM, Aggregation.MIN, Aggregation.UNIQUE_COUNT, Aggregation.LATEST];
  const meters: { person: SignedIn; meterId: string }[] = [];
  for (const aggregation of all) {
    meters.push({ person: consumer, meterId: await createMeter(app, consumer, { aggregation }) });
    const side = MeterSide.DEVELOPER;
    const meterId = await createMeter(app, developer, { aggregation, side });
    meters.push({ person: developer, meterId });
  }
  const id = randomUUID();
  await record({ data: '{"v":3}' }, { data: '{"v":1}', id });
  const admin = await app.admin();
  const values = () =>
    Promise.all(
      meters.map(async ({ person, meterId }) => (await ask(app, person, { meterId }))[0]?.value),
    );
  expect(await values()).toEqual(["4", "4", "1", "1", "2", "2", "1", "1"]);

  await app
    .client(CorrectionService, admin.token)
    .voidEvent({ accountId, source: "urn:test", id, reason: "wrong" });
  await app.applied();

  expect(await values()).toEqual(["3", "3", "3", "3", "1", "1", "3", "3"]);
  const pending = () => asSuperuser(app, (session) => session.query("select from meter_recounts"));
  await until(async () => (await pending()).rows.length === 0);
  expect(await values()).toEqual(["3", "3", "3", "3", "1", "1", "3", "3"]);
});
