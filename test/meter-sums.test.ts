import { sql } from "slonik";
import { expect, test } from "vitest";
import { nothing } from "../src/db/pool.ts";
import { newId } from "../src/lib/id.ts";
import { shardCount, shardOf, type UsageEntry } from "../src/metering/entry.ts";
import { buildNextMeter } from "../src/metering/meter-build.ts";
import { type MeterQuery, queryEvents, queryRollups } from "../src/metering/meter-query.ts";
import type { Aggregation, MeterDefinition, MeterSide } from "../src/metering/meter-reading.ts";
import { addMeters } from "../src/metering/meter-rollup.ts";
import { deleteMeter, findMeter, insertMeter } from "../src/metering/meter-store.ts";
import { type WindowSize, windowsOf, zoneClock } from "../src/metering/window.ts";
import { must } from "./support/app.ts";
import { newAccountId, newApiId, openBooks, projectOnce, seeded, usage } from "./support/books.ts";
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
    const timeMs = dayMs + Math.floor((random() - 0.5) * spreadMs);
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
      return (await projectOnce(books.db, shard)).outcome === "more";
    },

    /** Take back an event that is applied, as the projector does. */
    async void() {
      const one = pick(made);
      const { entry, model } = one;
      const { rows } = await books.superuser.query<{ position: string; ordinal: number }>(
        "select position, ordinal from usage_events where account_id = $1 and id = $2",
        [entry.account, entry.id],
      );
      const [row] = rows;
      if (row === undefined || model.isVoided) {
        return;
      }
      const place = { position: BigInt(row.position), ordinal: row.ordinal };
      await books.db.systemTransaction(async (tx) => {
        await tx.query(sql.type(nothing)`
          select from projector_cursors where shard = ${shardOf(entry.account, shardCount)} for update
        `);
        await tx.query(sql.type(nothing)`
          insert into usage_corrections (
            account_id, id, event_key, event_position, event_ordinal, is_void, mode,
            developer_account_id, api_id, bucket, booked_month, delta_nanos, delta_fee_nanos,
            reason, shard, position, ordinal, created_at
          ) values (
            ${entry.account}, ${newId("cor", new Date())}, 'x', ${place.position}, ${place.ordinal},
            true, ${entry.mode}, ${developer}, ${entry.price.apiId}, now(), now(), 0, 0, 'x', 0, 1,
            0, now()
          )
        `);
        await addMeters(tx, { applied: [], voided: [{ target: { place, entry }, isVoid: true }] });
      });
      model.isVoided = true;
    },

    async meter(accountId: string, definition: MeterDefinition) {
      const id = newId("mtr", new Date());
      const meter = { ...definition, accountId, id, slug: `m${id.slice(4)}` };
      await books.db.systemTransaction((tx) => insertMeter(tx, meter, new Date()));
      return { accountId, id, definition };
    },
  };
}

function build(books: Books): Promise<boolean> {
  return books.db.systemTransaction(buildNextMeter);
}

async function finish(books: Books): Promise<void> {
  await books.project();
  while (await build(books)) {}
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
  { timeout: 60_000 },
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
}, 120_000);

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
