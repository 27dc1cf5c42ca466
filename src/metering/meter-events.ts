import { sql } from "slonik";
import { z } from "zod";
import type { Queries, Tx } from "../db/pool.ts";
import { monthOf, timeText } from "./entry.ts";
import type { MeteredEvent, MeterSide } from "./meter-reading.ts";

/** Events that one statement reads. */
export const pageEventsMax = 5_000;

/** Consumers of whose events one statement reads. */
const consumersMax = 500;

const eventRow = z.object({
  account_id: z.string(),
  mode: z.enum(["live", "test"]),
  api_id: z.string(),
  endpoint: z.string(),
  status_code: z.number(),
  key_id: z.string().nullable(),
  time_micros: z.bigint(),
  shard: z.number(),
  position: z.bigint(),
  ordinal: z.number(),
  data: z.string(),
  is_voided: z.boolean(),
});

/** An applied event, as it is kept. */
export interface KeptEvent extends MeteredEvent {
  /** Who used it. */
  accountId: string;
  mode: "live" | "test";
  shard: number;
  isVoided: boolean;
}

const eventColumns = sql.fragment`
  events.account_id, events.mode, events.api_id, events.endpoint, events.status_code, events.key_id,
  (extract(epoch from events.occurred_at) * 1000000)::int8 as time_micros,
  events.shard, events.position, events.ordinal, events.data,
  exists (
    select from usage_corrections as voided
    where voided.account_id = events.account_id and voided.event_position = events.position
      and voided.event_ordinal = events.ordinal and voided.is_void
  ) as is_voided
`;

/** Where a page begins: behind an event, of the consumers in the order of their ids. */
export type ReadPlace = Pick<KeptEvent, "accountId" | "timeMicros" | "position" | "ordinal">;

/** Whose events of which time. */
export interface EventRange {
  accountId: string;
  side: MeterSide;
  mode: "live" | "test";
  startMs: number;
  endMs: number;
}

/**
 * Read the events of a range, voided ones too, page by page: consumer by consumer, the latest first. The transaction
 * must see those of all consumers for the developer's side, which is of live events only.
 */
export async function* readRange(
  tx: Queries,
  range: EventRange,
  { after = null, size = pageEventsMax }: { after?: ReadPlace | null; size?: number } = {},
): AsyncIterable<KeptEvent[]> {
  let place = after;
  for (;;) {
    const { events, isDone } = await readPage(tx, range, { after: place, size });
    yield events;
    if (isDone) {
      return;
    }
    place = events.at(-1) ?? place;
  }
}

/** Read one page of a range. It may be shorter than others and not the last. */
export async function readPage(
  tx: Queries,
  range: EventRange,
  { after, size }: { after: ReadPlace | null; size: number },
): Promise<{ events: KeptEvent[]; isDone: boolean }> {
  let first = after?.accountId ?? "";
  for (;;) {
    const accounts =
      range.side === "consumer" ? [range.accountId] : await listConsumers(tx, range, first);
    const rows = await listEvents(tx, range, { accounts, after, size });
    const isLast = range.side === "consumer" || accounts.length < consumersMax;
    if (rows.length === size || isLast) {
      return { events: rows.map(toEvent), isDone: rows.length < size };
    }
    const last = rows.at(-1);
    if (last !== undefined) {
      return { events: rows.map(toEvent), isDone: false };
    }
    // The next begins behind these consumers, who have none left.
    first = `${accounts.at(-1)} `;
  }
}

const consumerRow = z.object({ account_id: z.string() });

/** The next of the consumers that the roll-ups know: their events have an index by time, the developer's have none. */
async function listConsumers(
  db: Queries,
  { accountId, mode, startMs, endMs }: EventRange,
  first: string,
): Promise<string[]> {
  const rows = await db.any(sql.type(consumerRow)`
    select distinct consumer_account_id collate "C" as account_id from revenue_rollups
    where account_id = ${accountId} and mode = 'live' and ${mode} = 'live'
      and bucket > ${timeText(BigInt(startMs) * 1_000n)}::timestamptz - interval '15 minutes'
      and bucket < ${timeText(BigInt(endMs) * 1_000n)}::timestamptz
      and consumer_account_id collate "C" >= ${first}
    order by 1 limit ${consumersMax}
  `);
  return rows.map((row) => row.account_id);
}

/** Of each account by the index of its events by time, and no more than the page takes. */
function listEvents(
  db: Queries,
  { accountId, side, mode, startMs, endMs }: EventRange,
  { accounts, after, size }: { accounts: readonly string[]; after: ReadPlace | null; size: number },
): Promise<readonly z.infer<typeof eventRow>[]> {
  const endMicros = BigInt(endMs) * 1_000n;
  const bounds = accounts.map((account) => {
    const before = after?.accountId === account ? after : null;
    const { timeMicros, position, ordinal } = before ?? beforeAll(endMicros);
    return [account, timeText(timeMicros), position.toString(), ordinal];
  });
  const startMicros = BigInt(startMs) * 1_000n;
  // An event may come some minutes before its own time, so the partitions before that day hold none of them.
  const month = monthOf(startMicros > dayMicros ? startMicros - dayMicros : 0n);
  return db.any(sql.type(eventRow)`
    select page.*
    from ${sql.unnest(bounds, ["text", "timestamptz", "int8", "int4"])}
      as bound (account_id, occurred_at, position, ordinal)
    cross join lateral (
      select ${eventColumns} from usage_events as events
      where events.account_id = bound.account_id and events.mode = ${mode}
        and (${side === "consumer"} or events.developer_account_id = ${accountId})
        and events.received_month >= ${month}
        and events.occurred_at >= ${timeText(startMicros)}::timestamptz
        and (events.occurred_at, events.position, events.ordinal)
          < (bound.occurred_at, bound.position, bound.ordinal)
      order by events.occurred_at desc, events.position desc, events.ordinal desc
      limit ${size}
    ) as page
    limit ${size}
  `);
}

const countRow = z.object({ calls: z.bigint() });

/** Count the calls of the whole quarters of an hour of a range: it has at least as many events. */
export async function countCalls(
  db: Queries,
  { accountId, side, mode, startMs, endMs }: EventRange,
): Promise<number> {
  const start = new Date(Math.ceil(startMs / quarterMs) * quarterMs).toISOString();
  const end = new Date(Math.floor(endMs / quarterMs) * quarterMs).toISOString();
  const { calls } =
    side === "consumer"
      ? await db.one(sql.type(countRow)`
          select coalesce(sum(calls), 0)::int8 as calls from usage_rollups
          where account_id = ${accountId} and mode = ${mode} and bucket >= ${start} and bucket < ${end}
        `)
      : await db.one(sql.type(countRow)`
          select coalesce(sum(calls), 0)::int8 as calls from revenue_rollups
          where account_id = ${accountId} and mode = 'live' and bucket >= ${start} and bucket < ${end}
        `);
  return Number(calls);
}

const quarterMs = 15 * 60_000;
const dayMicros = 86_400_000_000n;

/** Before what is at the end of a range or later. */
function beforeAll(endMicros: bigint) {
  return { timeMicros: endMicros, position: 0n, ordinal: 0 };
}

/** List an account's events behind a position of the journal, in its order. */
export async function listConsumed(
  tx: Tx,
  { accountId, after, upTo }: { accountId: string; after: bigint; upTo: bigint },
): Promise<KeptEvent[]> {
  const rows = await tx.any(sql.type(eventRow)`
    select ${eventColumns} from usage_events as events
    where account_id = ${accountId} and position > ${after} and position <= ${upTo}
    order by position, ordinal
    limit ${pageEventsMax}
  `);
  return rows.map(toEvent);
}

/** List live events of a developer's APIs behind a position of the journal, in its order. */
export async function listServed(
  tx: Tx,
  { accountId, after, upTo }: { accountId: string; after: bigint; upTo: bigint },
): Promise<KeptEvent[]> {
  const rows = await tx.any(sql.type(eventRow)`
    select ${eventColumns} from usage_events as events
    where developer_account_id = ${accountId} and mode = 'live'
      and position > ${after} and position <= ${upTo}
    order by position, ordinal
    limit ${pageEventsMax}
  `);
  return rows.map(toEvent);
}

function toEvent(row: z.infer<typeof eventRow>): KeptEvent {
  return {
    accountId: row.account_id,
    mode: row.mode,
    apiId: row.api_id,
    endpoint: row.endpoint,
    statusCode: row.status_code,
    keyId: row.key_id,
    timeMicros: row.time_micros,
    shard: row.shard,
    position: row.position,
    ordinal: row.ordinal,
    data: row.data,
    isVoided: row.is_voided,
  };
}
