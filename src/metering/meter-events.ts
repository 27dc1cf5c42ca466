import { sql } from "slonik";
import { z } from "zod";
import type { Queries, Tx } from "../db/pool.ts";
import { timeText } from "./entry.ts";
import type { MeteredEvent, MeterSide } from "./meter-reading.ts";

/** Events that one statement reads. */
export const pageEventsMax = 5_000;

const eventRow = z.object({
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
  mode: "live" | "test";
  shard: number;
  isVoided: boolean;
}

const eventColumns = sql.fragment`
  events.mode, events.api_id, events.endpoint, events.status_code, events.key_id,
  (extract(epoch from events.occurred_at) * 1000000)::int8 as time_micros,
  events.shard, events.position, events.ordinal, events.data,
  exists (
    select from usage_corrections as voided
    where voided.account_id = events.account_id and voided.event_position = events.position
      and voided.event_ordinal = events.ordinal and voided.is_void
  ) as is_voided
`;

/** Where a page begins: behind an event. */
type Place = Pick<MeteredEvent, "timeMicros" | "position" | "ordinal">;

/** Whose events of which time. */
export interface EventRange {
  accountId: string;
  side: MeterSide;
  mode: "live" | "test";
  startMs: number;
  endMs: number;
}

/**
 * Read the events of a range, voided ones too, latest first, page by page. The transaction must see those of all consumers for the
 * developer's side, which is of live events only.
 */
export async function* readRange(tx: Queries, range: EventRange): AsyncIterable<KeptEvent[]> {
  const list = range.side === "consumer" ? listConsumerEvents : listDeveloperEvents;
  let before: Place = { timeMicros: BigInt(range.endMs) * 1_000n, position: 0n, ordinal: 0 };
  for (;;) {
    const events = (await list(tx, range, before)).map(toEvent);
    yield events;
    const last = events.at(-1);
    if (last === undefined || events.length < pageEventsMax) {
      return;
    }
    before = last;
  }
}

function listConsumerEvents(
  db: Queries,
  { accountId, mode, startMs }: EventRange,
  { timeMicros, position, ordinal }: Place,
): Promise<readonly z.infer<typeof eventRow>[]> {
  return db.any(sql.type(eventRow)`
    select ${eventColumns} from usage_events as events
    where account_id = ${accountId} and mode = ${mode}
      and occurred_at >= ${timeText(BigInt(startMs) * 1_000n)}::timestamptz
      and (occurred_at, position, ordinal)
        < (${timeText(timeMicros)}::timestamptz, ${position}::int8, ${ordinal}::int4)
    order by occurred_at desc, position desc, ordinal desc
    limit ${pageEventsMax}
  `);
}

/** By the consumers of the roll-ups: their events have an index by time, the developer's have none. */
function listDeveloperEvents(
  db: Queries,
  { accountId, mode, startMs, endMs }: EventRange,
  { timeMicros, position, ordinal }: Place,
): Promise<readonly z.infer<typeof eventRow>[]> {
  return db.any(sql.type(eventRow)`
    select ${eventColumns}
    from (
      select distinct consumer_account_id from revenue_rollups
      where account_id = ${accountId} and mode = 'live'
        and bucket > ${timeText(BigInt(startMs) * 1_000n)}::timestamptz - interval '15 minutes'
        and bucket < ${timeText(BigInt(endMs) * 1_000n)}::timestamptz
    ) as consumers
    join usage_events as events on events.account_id = consumers.consumer_account_id
    where events.developer_account_id = ${accountId} and events.mode = 'live' and ${mode} = 'live'
      and events.occurred_at >= ${timeText(BigInt(startMs) * 1_000n)}::timestamptz
      and (events.occurred_at, events.position, events.ordinal)
        < (${timeText(timeMicros)}::timestamptz, ${position}::int8, ${ordinal}::int4)
    order by events.occurred_at desc, events.position desc, events.ordinal desc
    limit ${pageEventsMax}
  `);
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
