import { sql } from "slonik";
import { expect, test } from "vitest";
import { nothing } from "../src/db/pool.ts";
import { shardCount } from "../src/metering/entry.ts";
import { buildNextMeter } from "../src/metering/meter-build.ts";
import type { MeterSide } from "../src/metering/meter-reading.ts";
import { deleteMeter } from "../src/metering/meter-store.ts";
import { admitGroups } from "../src/metering/meter-sums.ts";
import { projectShard } from "../src/metering/projector.ts";
import { type WindowSize, windowsOf, zoneClock } from "../src/metering/window.ts";
import { must, until } from "./support/app.ts";
import { holdShard, openBooks, roundOptions, seeded, usage } from "./support/books.ts";
import {
  type Asked,
  aggregations,
  answers,
  build,
  finish,
  quarterMs,
  readMeter,
  recount,
  someDefinition,
  startHistory,
  voidEvent,
} from "./support/meter-history.ts";
import { type ModelEvent, modelValues } from "./support/meter-model.ts";

type Books = Awaited<ReturnType<typeof openBooks>>;

const seed = Number(process.env.CALLORA_TEST_SEED ?? Date.now() % 1_000_000);

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

/** Wait until somebody waits for a lock. */
function untilBlocked(books: Books): Promise<void> {
  const waiting =
    "select count(*) as sum from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
  return until(async () => (await books.sum(waiting)) > 0n);
}

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
  await untilBlocked(books);
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

  const built = await readMeter(books, accountId, whole.id);
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
    await untilBlocked(books);
    const group = { accountId, meterId, groupKey: "g", texts: ["g"] };
    expect([...(await admitGroups(tx, [group]))]).toEqual([]);
    return { clearing };
  });

  expect(await cleared.clearing).toBe(true);
});
