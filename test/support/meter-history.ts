import { sql } from "slonik";
import { nothing } from "../../src/db/pool.ts";
import { newId } from "../../src/lib/id.ts";
import { shardCount, shardOf, type UsageEntry } from "../../src/metering/entry.ts";
import { buildNextMeter } from "../../src/metering/meter-build.ts";
import { type MeterQuery, queryEvents, queryRollups } from "../../src/metering/meter-query.ts";
import type { Aggregation, MeterDefinition, MeterSide } from "../../src/metering/meter-reading.ts";
import { recountNextMeter } from "../../src/metering/meter-recount.ts";
import { addMeters } from "../../src/metering/meter-rollup.ts";
import { findMeter, insertMeter } from "../../src/metering/meter-store.ts";
import { projectShard } from "../../src/metering/projector.ts";
import { releaseShard } from "../../src/metering/shard-lease.ts";
import { must } from "./app.ts";
import { holdShard, newAccountId, newApiId, type openBooks, roundOptions, usage } from "./books.ts";
import type { ModelEvent } from "./meter-model.ts";

type Books = Awaited<ReturnType<typeof openBooks>>;

/** The grain of the roll-ups. */
export const quarterMs = 15 * 60_000;

export const aggregations: Aggregation[] = [
  "sum",
  "count",
  "avg",
  "min",
  "max",
  "unique_count",
  "latest",
];

/** One of the quarters of an hour of a day: events meet there, so that the extremes of many go. */
const busyQuarters = 4;

/** An event of a model, and its entry in the journal. */
interface Made {
  model: ModelEvent;
  entry: UsageEntry;
}

/** A history of events, and of meters that are made and built while it goes on. */
export function startHistory(books: Books, random: () => number, dayMs: number) {
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
export async function voidEvent(
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

/** Build some of the next meter. False: there is none to build. */
export function build(books: Books): Promise<boolean> {
  return books.db.systemTransaction((tx) => buildNextMeter(tx, { after: "" }));
}

/** Few events at once: quarters of an hour take many pages. */
export function recount(books: Books, eventsMax = 3): Promise<boolean> {
  return books.db.systemTransaction((tx) => recountNextMeter(tx, { after: "" }, eventsMax));
}

/** Apply, build and count anew whatever is left of it. */
export async function finish(books: Books): Promise<void> {
  await books.project();
  while (await build(books)) {}
  while (await recount(books)) {}
}

/** A meter that is asked. */
export interface Asked {
  accountId: string;
  id: string;
  definition: MeterDefinition;
}

/** What the sums say, and what the events themselves say. */
export async function answers(books: Books, { accountId, id }: Asked, query: MeterQuery) {
  const row = must(await readMeter(books, accountId, id));
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

/** A definition with random groups and, now and then, a filter. */
export function someDefinition(
  random: () => number,
  of: { aggregation: Aggregation; side: MeterSide },
) {
  const groups = groupPaths.slice(0, Math.floor(random() * 4));
  const filters =
    random() < 0.3 ? [{ path: "status_code", values: ["500"], exclude: random() < 0.5 }] : [];
  return { ...of, valuePath: of.aggregation === "count" ? "" : "$.v", groups, filters };
}

/** A meter as it is stored. Null: there is none. */
export function readMeter(books: Books, accountId: string, id: string) {
  return books.db.tenantRead(accountId, (tx) => findMeter(tx, accountId, id));
}
