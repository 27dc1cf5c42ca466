import { sql } from "slonik";
import { expect, test } from "vitest";
import { nothing } from "../src/db/pool.ts";
import { newId } from "../src/lib/id.ts";
import { shardCount, shardOf, type UsageEntry } from "../src/metering/entry.ts";
import { buildNextMeter } from "../src/metering/meter-build.ts";
import { type MeterQuery, queryEvents, queryRollups } from "../src/metering/meter-query.ts";
import type { Aggregation, MeterDefinition, MeterSide } from "../src/metering/meter-reading.ts";
import { recountNextMeter } from "../src/metering/meter-recount.ts";
import { addMeters } from "../src/metering/meter-rollup.ts";
import { deleteMeter, findMeter, insertMeter } from "../src/metering/meter-store.ts";
import { admitGroups } from "../src/metering/meter-sums.ts";
import { projectShard } from "../src/metering/projector.ts";
import { releaseShard } from "../src/metering/shard-lease.ts";
import { type WindowSize, windowsOf, zoneClock } from "../src/metering/window.ts";
import { must, until } from "./support/app.ts";
import {
  holdShard,
  newAccountId,
  newApiId,
  openBooks,
  roundOptions,
  seeded,
  usage,
} from "./support/books.ts";
import { type ModelEvent, modelValues } from "./support/meter-model.ts";

type Books = Awaited<ReturnType<typeof openBooks>>;

const seed = Number(process.env.CALLORA_TEST_SEED ?? Date.now() % 1_000_000);
const quarterMs = 15 * 60_000;

const aggregations: Aggregation[] = ["sum", "count", "avg", "min", "max", "unique_count", "latest"];
const sides: MeterSide[] = ["consumer", "developer"];

/** Zones, and a day on which the clock changes if it does. */
const zones = [
  ["America/New_York", "2026-11-01"],
  ["America/New_York", "2026-03-08"],
  ["Asia/Kathmandu", "2026-07-01"],
  ["Australia/Lord_Howe", "2026-04-05"],
  ["Australia/Lord_Howe", "2026-10-04"],
  ["Pacific/Apia", "2011-12-30"],
  ["UTC", "2024-02-29"],
] as const;

const sizes: WindowSize[] = ["whole", "hour", "day", "week", "month"];

/** One of the quarters of an hour of a day: events meet there, so that the extremes of many go. */
const busyQuarters = 4;

/** An event of a model, and its entry in the journal. */
interface Made {
  model: ModelEvent;
  entry: UsageEntry;
}

/** A history of events, and of meters that are made and built while it goes on. */
function startHistory(books: Books, random: () => number, dayMs: number) {
  const consumers = [newAccountId(0), newAccountId(1)];
  const developer = newAccountId();
  const apis = [newApiId(), newApiId()];
  const made: Made[] = [];
  const pick = <T>(list: readonly T[]): T => must(list[Math.floor(random() * list.length)]);

  function makeValue() {
    const value = Math.floor(random() * 4_000) - 2_000;
    const text = String(value / 1_000);
    return pick([
      ...Array.from({ length: 8 }, () => ({ value, written: text, scalar: text })),
      { value, written: `${text}e0`, scalar: text },
      { value, written: `"${text}"`, scalar: `"${text}"` },
      { value: null, written: '"none"', scalar: '"none"' },
      { value: null, written: "true", scalar: "true" },
      { value: null, written: "null", scalar: null },
      { value: null, written: '{"x":1}', scalar: null },
    ]);
  }

  function makeEvent(): Made {
    // Some far from the others, as late events are.
    const spreadMs = (random() < 0.1 ? 40 : 3) * 86_400_000;
    const isBusy = random() < 0.5;
    const timeMs = isBusy
      ? dayMs + Math.floor(random() * busyQuarters * quarterMs)
      : dayMs + Math.floor((random() - 0.5) * spreadMs);
    const { value, written, scalar } = makeValue();
    const group = pick(["a", "b", "é\u0000"]);
    const status = pick([200, 404, 500]);
    const [consumer, api] = [pick(consumers), pick(apis)];
    const mode = random() < 0.2 ? "test" : "live";
    const data = `{"v":${written},"g":${JSON.stringify(group)}}`;
    const time = new Date(timeMs).toISOString();
    const entry = usage({ account: consumer, developer, api, mode, status, data, time });
    const groups = [group.replace("\0", "\uFFFD"), String(status), api];
    const order = made.length;
    const shared = { consumer, developer, mode, timeMs, order, groups, status } as const;
    const model = { ...shared, value, scalar };
    return { model: { ...model, isVoided: false }, entry };
  }

  return {
    consumers,
    developer,
    made,
    pick,

    async record(count: number) {
      const batch: Made[] = [];
      for (let index = 0; index < count; index += 1) {
        const one = makeEvent();
        made.push(one);
        batch.push(one);
      }
      await books.journal.append(batch.map(({ entry }) => entry));
    },

    async project(shard: number) {
      // Whoever begins to build a meter holds all shards for a moment.
      const lease = await holdShard(books.db, shard);
      if (lease !== null) {
        await books.db.systemTransaction((tx) => projectShard(tx, lease, roundOptions()));
        await books.db.systemTransaction((tx) => releaseShard(tx, lease));
      }
    },

    /** Take back an event that is applied. */
    async void() {
      const one = pick(made);
      if (!one.model.isVoided) {
        one.model.isVoided = await voidEvent(books, one.entry);
      }
    },

    async meter(accountId: string, definition: MeterDefinition) {
      const id = newId("mtr", new Date());
      const meter = { ...definition, accountId, id, slug: `m${id.slice(4)}` };
      await books.db.systemTransaction((tx) => insertMeter(tx, meter, new Date()));
      return { accountId, id, definition };
    },
  };
}

/** Take back an event as the projector does. False when it is not applied. */
async function voidEvent(
  books: Books,
  entry: UsageEntry,
  beforeMeters: () => Promise<void> = async () => {},
): Promise<boolean> {
  const { account, mode, price } = entry;
  const { rows } = await books.superuser.query<{ position: string; ordinal: number }>(
    "select position, ordinal from usage_events where account_id = $1 and id = $2",
    [account, entry.id],
  );
  const [row] = rows;
  if (row === undefined) {
    return false;
  }
  const place = { position: BigInt(row.position), ordinal: row.ordinal };
  await books.db.systemTransaction(async (tx) => {
    await tx.query(sql.type(nothing)`
      select from projector_cursors where shard = ${shardOf(account, shardCount)} for update
    `);
    await tx.query(sql.type(nothing)`
      insert into usage_corrections (
        account_id, id, event_key, event_position, event_ordinal, is_void, mode,
        developer_account_id, api_id, bucket, booked_month, delta_nanos, delta_fee_nanos,
        reason, shard, position, ordinal, created_at
      ) values (
        ${account}, ${newId("cor", new Date())}, 'x', ${place.position}, ${place.ordinal}, true,
        ${mode}, ${price.developerId}, ${price.apiId}, now(), now(), 0, 0, 'x', 0, 1, 0, now()
      )
    `);
    await beforeMeters();
    const shard = shardOf(account, shardCount);
    const target = { place, entry, shard };
    await addMeters(tx, { applied: [], voided: [{ target, isVoid: true }] });
  });
  return true;
}

function build(books: Books): Promise<boolean> {
  return books.db.systemTransaction((tx) => buildNextMeter(tx, { after: "" }));
}

/** Few events at once: quarters of an hour take many pages. */
function recount(books: Books, eventsMax = 3): Promise<boolean> {
  return books.db.systemTransaction((tx) => recountNextMeter(tx, { after: "" }, eventsMax));
}

async function finish(books: Books): Promise<void> {
  await books.project();
  while (await build(books)) {}
  while (await recount(books)) {}
}

interface Asked {
  accountId: string;
  id: string;
  definition: MeterDefinition;
}

/** What the sums say, and what the events themselves say. */
async function answers(books: Books, { accountId, id }: Asked, query: MeterQuery) {
  const row = must(await books.db.tenantRead(accountId, (tx) => findMeter(tx, accountId, id)));
  const show = (values: Awaited<ReturnType<typeof queryEvents>>) =>
    values.map(({ window, texts, value, events, skipped }) => ({
      startMs: window.startMs,
      groups: texts,
      value,
      events: Number(events),
      skipped: Number(skipped),
    }));
  return {
    state: row.state,
    sums: show(await books.db.tenantRead(accountId, (tx) => queryRollups(tx, row, query))),
    raw: show(await books.db.systemTransaction((tx) => queryEvents(tx, row, query))),
  };
}

const groupPaths = [
  { name: "g", path: "$.g" },
  { name: "status", path: "status_code" },
  { name: "api", path: "api_id" },
];

function someDefinition(random: () => number, of: { aggregation: Aggregation; side: MeterSide }) {
  const groups = groupPaths.slice(0, Math.floor(random() * 4));
  const filters =
    random() < 0.3 ? [{ path: "status_code", values: ["500"], exclude: random() < 0.5 }] : [];
  return { ...of, valuePath: of.aggregation === "count" ? "" : "$.v", groups, filters };
}

function sees({ accountId, definition }: Asked, mode: "live" | "test") {
  const { side, filters } = definition;
  return (event: ModelEvent): boolean =>
    event.mode === mode &&
    (side === "consumer" ? event.consumer : event.developer) === accountId &&
    (side === "consumer" || mode === "live") &&
    filters.every(({ exclude }) => (event.status === 500) !== exclude);
}

test.for(zones)(
  `sums, events and a model say the same in %s around %s (seed ${seed})`,
  async ([zone, day]) => {
    await using books = await openBooks();
    const random = seeded(seed);
    const dayMs = Date.parse(`${day}T12:00:00Z`);
    const history = startHistory(books, random, dayMs);
    const meters: Asked[] = [];
    const wanted = aggregations.flatMap((aggregation) =>
      sides.map((side) => someDefinition(random, { aggregation, side })),
    );
    for (let round = 0; round < 60; round += 1) {
      const definition = round % 3 === 0 ? wanted.pop() : undefined;
      if (definition !== undefined) {
        const { developer, consumers, pick } = history;
        const owner = definition.side === "consumer" ? pick(consumers) : developer;
        meters.push(await history.meter(owner, definition));
      }
      const step = random();
      if (step < 0.4) {
        await history.record(1 + Math.floor(random() * 30));
      } else if (step < 0.7) {
        await history.project(Math.floor(random() * shardCount));
      } else if (step < 0.85) {
        await build(books);
        await recount(books);
      } else if (history.made.length > 0) {
        await history.void();
      }
    }
    while (wanted.length > 0) {
      const definition = must(wanted.pop());
      const owner = definition.side === "consumer" ? must(history.consumers[0]) : history.developer;
      meters.push(await history.meter(owner, definition));
    }
    await finish(books);
    await history.void();
    while (await recount(books)) {}

    expect(meters).toHaveLength(aggregations.length * sides.length);
    const clock = must(zoneClock(zone));
    for (const meter of meters) {
      for (let ask = 0; ask < 4; ask += 1) {
        const { groups, aggregation } = meter.definition;
        const mode = random() < 0.2 ? "test" : "live";
        const startMs = dayMs - Math.floor(random() * 2_000) * quarterMs;
        const endMs = dayMs + (1 + Math.floor(random() * 2_000)) * quarterMs;
        const size = history.pick(sizes);
        const windows = must(windowsOf({ startMs, endMs }, size, clock));
        const groupBy = groups.flatMap((_, index) => (random() < 0.4 ? [index] : []));
        const exclude = random() < 0.5;
        const filters =
          groups.length > 0 && random() < 0.4 ? [{ group: 0, values: ["a", "x"], exclude }] : [];
        const query = { mode, windows, groupBy, filters } as const;
        const seen = sees(meter, mode);
        const holds = (event: ModelEvent) =>
          seen(event) && filters.every((one) => (event.groups[0] === "a") !== one.exclude);

        const { state, sums, raw } = await answers(books, meter, query);

        const model = modelValues(
          history.made.map((one) => one.model),
          { aggregation, windows, groupBy, holds },
        );
        const what = `seed ${seed}: ${JSON.stringify({ ...meter.definition, mode, size, groupBy, filters })}`;
        expect(state).toBe("active");
        expect(sums, what).toEqual(model);
        expect(raw, what).toEqual(model);
      }
    }
  },
);

test("minutes are counted from the events, over a range that is no whole quarter", async () => {
  await using books = await openBooks();
  const startMs = Date.parse("2026-07-01T10:07:00Z");
  const history = startHistory(books, seeded(seed), startMs);
  const accountId = must(history.consumers[0]);
  const meter = await history.meter(accountId, {
    aggregation: "sum",
    valuePath: "$.v",
    groups: [],
    filters: [],
    side: "consumer",
  });
  const at = (seconds: number, v: string) =>
    usage({
      account: accountId,
      developer: history.developer,
      time: new Date(startMs + seconds * 1_000).toISOString(),
      data: `{"v":${v}}`,
    });
  await books.journal.append([at(0, "0.1"), at(59.999, "0.2"), at(60, "5"), at(-0.001, "7")]);
  await finish(books);
  const windows = must(
    windowsOf({ startMs, endMs: startMs + 180_000 }, "minute", must(zoneClock("UTC"))),
  );

  const { raw } = await answers(books, meter, { mode: "live", windows, groupBy: [], filters: [] });

  expect(raw.map(({ value, events }) => [value, events])).toEqual([
    ["0.3", 2],
    ["5", 1],
    ["", 0],
  ]);
});

test(`meters that are built while events arrive and go count each once (seed ${seed})`, async () => {
  await using books = await openBooks();
  const random = seeded(seed);
  const dayMs = Date.parse("2026-07-01T12:00:00Z");
  const history = startHistory(books, random, dayMs);
  for (let batch = 0; batch < 13; batch += 1) {
    await history.record(500);
  }
  await books.project();
  const definitions = aggregations.flatMap((aggregation) =>
    sides.map((side) => ({ ...someDefinition(random, { aggregation, side }), filters: [] })),
  );
  const meters: Asked[] = [];
  let isOver = false;
  const whileOpen = async (work: () => Promise<unknown>) => {
    while (!isOver) {
      await work();
      await new Promise((resolve) => setImmediate(resolve));
    }
  };

  await Promise.all([
    (async () => {
      for (const definition of definitions) {
        const owner =
          definition.side === "consumer" ? must(history.consumers[0]) : history.developer;
        meters.push(await history.meter(owner, definition));
        await history.record(50);
        await history.void();
      }
      for (let round = 0; round < 20; round += 1) {
        await history.record(20);
        await history.void();
      }
      isOver = true;
    })(),
    whileOpen(() => build(books)),
    whileOpen(() => recount(books)),
    whileOpen(() => history.project(0)),
    whileOpen(() => history.project(1)),
  ]);
  await finish(books);

  const range = { startMs: dayMs - 60 * 86_400_000, endMs: dayMs + 60 * 86_400_000 };
  const windows = must(windowsOf(range, "day", must(zoneClock("UTC"))));
  for (const meter of meters) {
    const query = { mode: "live", windows, groupBy: [], filters: [] } as const;
    const { sums } = await answers(books, meter, query);
    const holds = sees(meter, "live");
    const events = history.made.map((one) => one.model);
    const { aggregation } = meter.definition;
    expect(sums, `seed ${seed}: ${JSON.stringify(meter.definition)}`).toEqual(
      modelValues(events, { aggregation, windows, groupBy: [], holds }),
    );
  }
}, 240_000);

test("an event that goes while another shard adds to the same sums takes only itself away", async () => {
  await using books = await openBooks();
  const time = "2026-07-01T12:00:00Z";
  const history = startHistory(books, seeded(seed), Date.parse(time));
  const { developer, consumers } = history;
  const definition = { aggregation: "sum", valuePath: "$.v", groups: [], filters: [] } as const;
  const meter = await history.meter(developer, { ...definition, side: "developer" });
  await finish(books);
  const [first, kept, late] = [1, 2, 4].map((v, index) =>
    usage({ account: must(consumers[index >> 1]), developer, time, data: `{"v":${v}}` }),
  );
  await books.journal.append([must(first), must(kept)]);
  await books.project();
  await books.journal.append([must(late)]);
  const applied = Promise.withResolvers<void>();
  const gate = Promise.withResolvers<void>();

  const lease = must(await holdShard(books.db, 1));
  const other = books.db.systemTransaction(async (tx) => {
    await projectShard(tx, lease, roundOptions());
    applied.resolve();
    await gate.promise;
  });
  await applied.promise;
  const gone = voidEvent(books, must(first));
  await until(async () => {
    const waiting =
      "select count(*) as sum from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
    return (await books.sum(waiting)) > 0n;
  });
  gate.resolve();
  await Promise.all([other, gone]);

  const startMs = Date.parse(time);
  const windows = [{ startMs, endMs: startMs + quarterMs }];
  const { sums, raw } = await answers(books, meter, {
    mode: "live",
    windows,
    groupBy: [],
    filters: [],
  });
  expect(raw).toMatchObject([{ value: "6", events: 2 }]);
  expect(sums).toEqual(raw);
});

test("a deleted meter leaves nothing behind", async () => {
  await using books = await openBooks();
  const history = startHistory(books, seeded(seed), Date.parse("2026-07-01T12:00:00Z"));
  const accountId = must(history.consumers[0]);
  const definition = someDefinition(() => 0.9, { aggregation: "unique_count", side: "consumer" });
  const { id } = await history.meter(accountId, { ...definition, filters: [] });
  const kept = await history.meter(accountId, { ...definition, filters: [] });
  await history.record(200);
  await finish(books);
  const count = (table: string, meterId: string) =>
    books.sum(`select count(*) as sum from ${table} where meter_id = $1`, [meterId]);
  expect(await count("meter_uniques", id)).toBeGreaterThan(0n);

  await books.db.tenantRead(accountId, (tx) => deleteMeter(tx, accountId, id));
  await history.record(200);
  await finish(books);

  for (const table of ["meter_uniques", "meter_rollups", "meter_groups"]) {
    expect(await count(table, id)).toBe(0n);
    expect(await count(table, kept.id)).toBeGreaterThan(0n);
  }
  expect(await books.sum("select count(*) as sum from meters")).toBe(1n);
});

/** Meters of one account over events of one quarter of an hour, all built. */
async function openQuarter(books: Books, values: readonly number[], all = aggregations) {
  const time = "2026-07-01T12:00:00Z";
  const history = startHistory(books, seeded(seed), Date.parse(time));
  const [accountId, { developer }] = [must(history.consumers[0]), history];
  const meters = new Map<Aggregation, Asked>();
  for (const aggregation of all) {
    const valuePath = aggregation === "count" ? "" : "$.v";
    const definition = {
      aggregation,
      valuePath,
      groups: [],
      filters: [],
      side: "consumer" as const,
    };
    meters.set(aggregation, await history.meter(accountId, definition));
  }
  const events = values.map((v) =>
    usage({ account: accountId, developer, time, data: `{"v":${v}}` }),
  );
  await books.journal.append(events);
  await finish(books);
  const startMs = Date.parse(time);
  const windows = [{ startMs, endMs: startMs + quarterMs }];
  const query = { mode: "live", windows, groupBy: [], filters: [] } as const;
  async function sums() {
    const shown: Record<string, unknown> = {};
    for (const [aggregation, { id }] of meters) {
      const values = await books.db.tenantRead(accountId, async (tx) =>
        queryRollups(tx, must(await findMeterFirst(books, accountId, id)), query),
      );
      shown[aggregation] = must(values[0]).value;
    }
    return shown;
  }
  return { accountId, events, sums };
}

function findMeterFirst(books: Books, accountId: string, id: string) {
  return books.db.tenantRead(accountId, (tx) => findMeter(tx, accountId, id));
}

test("taking an event back reads no events: its shard does not wait for a busy quarter", async () => {
  await using books = await openBooks();
  const { events, sums } = await openQuarter(books, [5, 1, 9, 9]);
  const { superuser } = books;

  // Whoever reads events now waits for ever.
  const target = must(events[1]);
  await voidEvent(books, target, async () => {
    await superuser.query("begin");
    await superuser.query("lock table usage_events in access exclusive mode");
  });
  await superuser.query("rollback");
  const { rows } = await superuser.query("select count(*)::int as pending from meter_recounts");
  while (await recount(books, 1)) {}

  // The least, the latest to come and a different value: none of these was the greatest.
  expect(rows).toEqual([{ pending: 2 }]);
  expect(await sums()).toEqual({
    sum: "23",
    count: "3",
    avg: "7.666666666666666667",
    min: "5",
    max: "9",
    unique_count: "2",
    latest: "9",
  });
});

test("what goes while its quarter is counted anew is not counted by a later page", async () => {
  await using books = await openBooks();
  const { events, sums } = await openQuarter(
    books,
    [3, 1, 2, 2.5],
    ["min", "max", "unique_count", "latest"],
  );

  await voidEvent(books, must(events[1]));
  await recount(books, 2);
  await voidEvent(books, must(events[2]));
  while (await recount(books, 2)) {}

  expect(await sums()).toEqual({ min: "2.5", max: "3", unique_count: "2", latest: "2.5" });
});

test("an event of a quarter that shares a removed month takes only itself away", async () => {
  await using books = await openBooks();
  const { events, sums } = await openQuarter(books, [5, 7]);
  await books.superuser.query(
    "update usage_events set received_month = '2026-06-01' where position = 1 and ordinal = 0",
  );
  await books.superuser.query("delete from usage_events where received_month = '2026-06-01'");
  await books.superuser.query(
    `insert into usage_partition_totals (
       received_month, mode, events, charged_nanos, fee_nanos, last_position
     ) values ('2026-07-01', 'live', 1, 0, 0, 1)`,
  );

  await voidEvent(books, must(events[1]));
  while (await recount(books)) {}

  // What is removed may have been the greatest, or not: it is not known any more.
  const kept = { sum: "5", count: "1", avg: "5", min: "5", max: "7", latest: "7" };
  expect(await sums()).toMatchObject(kept);
});

test("a meter that cannot be built keeps no other from being built", async () => {
  await using books = await openBooks();
  const history = startHistory(books, seeded(seed), Date.parse("2026-07-01T12:00:00Z"));
  const accountId = must(history.consumers[0]);
  const definition = someDefinition(() => 0.9, { aggregation: "sum", side: "consumer" });
  const broken = await history.meter(accountId, definition);
  const whole = await history.meter(accountId, definition);
  await history.record(20);
  await books.project();
  await books.superuser.query("update meters set value_path = 'none' where id = $1", [broken.id]);

  const turn = { after: "" };
  for (let round = 0; round < 6; round += 1) {
    await books.db.systemTransaction((tx) => buildNextMeter(tx, turn)).catch(() => {});
  }

  const built = await findMeterFirst(books, accountId, whole.id);
  expect(must(built).state).toBe("active");
});

test("a projector does not wait for who clears a meter away, who waits for it", async () => {
  await using books = await openBooks();
  const history = startHistory(books, seeded(seed), Date.parse("2026-07-01T12:00:00Z"));
  const accountId = must(history.consumers[0]);
  const { id: meterId } = await history.meter(accountId, {
    ...someDefinition(() => 0.9, { aggregation: "sum", side: "consumer" }),
    filters: [],
  });
  await finish(books);
  await books.db.tenantRead(accountId, (tx) => deleteMeter(tx, accountId, meterId));

  const cleared = await books.db.systemTransaction(async (tx) => {
    await tx.query(sql.type(nothing)`select from projector_cursors for update`);
    const clearing = build(books);
    await until(async () => {
      const waiting =
        "select count(*) as sum from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
      return (await books.sum(waiting)) > 0n;
    });
    const group = { accountId, meterId, groupKey: "g", texts: ["g"] };
    expect([...(await admitGroups(tx, [group]))]).toEqual([]);
    return { clearing };
  });

  expect(await cleared.clearing).toBe(true);
});
