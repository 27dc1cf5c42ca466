import { setTimeout as sleep } from "node:timers/promises";
import { Code, type ServiceImpl } from "@connectrpc/connect";
import type { MeteringService } from "../../gen/callora/metering/v1/metering_service_pb.ts";
import type { Database } from "../db/database.ts";
import { invalidArgument, reasoned, unavailable } from "../rpc/errors.ts";
import { requirePrincipal } from "../rpc/principal.ts";
import { type Place, shardOf } from "./entry.ts";
import { toEvent } from "./look-up.ts";
import { parsePlace, placeText } from "./quarantine-shown.ts";
import { findRemovedPosition, listEventsAfter, type Reached, readReached } from "./watch-store.ts";

/** What watching needs. */
export interface WatchDeps {
  db: Database;
  shards: number;
  /** Calls back when the server begins to stop. Returns how to stop that. */
  onStop: (listener: () => void) => () => void;
  /** Calls back when more of an account's events are applied. Without it they are asked for twice a second. */
  onApplied?: (accountId: string, wake: () => void) => () => void;
}

/** Streams of one process, and of one account. */
const streamsMax = 200;
const accountStreamsMax = 10;
/** Events of one answer, and the bytes of their data: clients take 4 MB. */
const eventsMax = 500;
const dataBytesMax = 1_000_000;
const pollMs = 500;
/** A stream asks no sooner again, and streams share what was read of the cursors so long. */
const sharedMs = 100;
const lifeMs = 15_000;
/** A caller has to show a credential again after so long. */
const streamMsMax = 3_600_000;
/** More than any entry's of a row. */
const lastOrdinal = 999_999_999;

/** The handlers that send applied events as they come. */
export function watchMethods(
  deps: WatchDeps,
): Pick<ServiceImpl<typeof MeteringService>, "watchEvents"> {
  const readShared = shareReads(() => deps.db.systemTransaction(readReached));
  const places = createPlaces();
  return {
    async *watchEvents({ resumeToken }, ctx) {
      const { accountId } = requirePrincipal(ctx);
      const leave = places.take(accountId);
      const stopping = new AbortController();
      const stopListening = deps.onStop(() => stopping.abort());
      try {
        const signal = AbortSignal.any([
          ctx.signal,
          stopping.signal,
          AbortSignal.timeout(streamMsMax),
        ]);
        yield* follow(deps, { accountId, resumeToken, signal, readShared });
      } finally {
        stopListening();
        leave();
      }
      if (stopping.signal.aborted) {
        throw unavailable("NOT_READY", "Cannot go on: the server stops");
      }
    },
  };
}

/** Who has how many streams open. */
function createPlaces() {
  const byAccount = new Map<string, number>();
  let streams = 0;
  function add(accountId: string, count: 1 | -1) {
    const own = (byAccount.get(accountId) ?? 0) + count;
    streams += count;
    if (own === 0) {
      byAccount.delete(accountId);
    } else {
      byAccount.set(accountId, own);
    }
  }
  return {
    /** Returns how to leave it. Throws when there is none. */
    take(accountId: string): () => void {
      if ((byAccount.get(accountId) ?? 0) >= accountStreamsMax) {
        const message = `Cannot watch events: the account has ${accountStreamsMax} streams open`;
        throw reasoned(Code.ResourceExhausted, { reason: "WATCHES_EXHAUSTED", message });
      }
      if (streams >= streamsMax) {
        throw unavailable("WATCH_BUSY", "Cannot watch events: too many streams are open");
      }
      add(accountId, 1);
      return () => add(accountId, -1);
    },
  };
}

/** Send what comes after the token until the signal ends it. The reader sets the pace: it is asked for one by one. */
async function* follow(
  { db, shards, onApplied }: WatchDeps,
  stream: {
    accountId: string;
    resumeToken: string;
    signal: AbortSignal;
    readShared: (sinceMs: number) => Promise<Reached>;
  },
) {
  const { accountId, signal, readShared } = stream;
  const shard = shardOf(accountId, shards);
  const page = { accountId, limit: eventsMax, bytesMax: dataBytesMax };
  const alarm = createAlarm(signal);
  const stopWaking = onApplied?.(accountId, alarm.wake);
  try {
    let place = await startOf(db, shard, stream.resumeToken);
    let saidAt = Number.NEGATIVE_INFINITY;
    while (!signal.aborted) {
      // Before the events: what is applied up to there is among them.
      const { watermark, shards: reached } = await readShared(alarm.rangAt());
      const end = reached.get(shard) ?? 0n;
      const isBehind =
        end > place.position || (end === place.position && place.ordinal < lastOrdinal);
      const readAt = performance.now();
      const { rows, isAll } = isBehind
        ? await db.tenantRead(accountId, (tx) => listEventsAfter(tx, { ...page, after: place }))
        : { rows: [], isAll: true };
      const last = rows.at(-1);
      place = nextPlace(place, { last, end, isAll });
      if (rows.length > 0 || performance.now() - saidAt >= lifeMs) {
        saidAt = performance.now();
        yield { events: rows.map(toEvent), resumeToken: placeText(place), watermark };
      }
      if (isAll) {
        await alarm.wait(pollMs);
        const restMs = Math.max(0, readAt + sharedMs - performance.now());
        await sleep(restMs, undefined, { signal }).catch(() => {});
      }
    }
  } finally {
    stopWaking?.();
  }
}

/** Where to go on: after the last event, and after all that is applied when there are no more. */
function nextPlace(
  place: Place,
  { last, end, isAll }: { last: Place | undefined; end: bigint; isAll: boolean },
): Place {
  const sent = last === undefined ? place : { position: last.position, ordinal: last.ordinal };
  return isAll && end >= sent.position ? { position: end, ordinal: lastOrdinal } : sent;
}

/**
 * The place after which a stream begins. Throws OUT_OF_RANGE when events after it are removed, INVALID_ARGUMENT when
 * nothing is applied there yet.
 */
async function startOf(db: Database, shard: number, resumeToken: string): Promise<Place> {
  const { end, removed } = await db.systemTransaction(async (tx) => ({
    end: (await readReached(tx)).shards.get(shard) ?? 0n,
    removed: await findRemovedPosition(tx),
  }));
  if (resumeToken === "") {
    return { position: end, ordinal: lastOrdinal };
  }
  const place = parsePlace(resumeToken);
  if (place.position > end) {
    throw invalidArgument([{ field: "resume_token", description: "is not one of ours" }]);
  }
  if (place.position < removed && resumeToken !== "0.0") {
    const message = "Cannot go on after the token: events after it are removed; begin with 0.0";
    throw reasoned(Code.OutOfRange, { reason: "RESUME_EXPIRED", message });
  }
  return place;
}

/** Let callers of about the same time share one read, unless it began before what they were told of. */
function shareReads<T>(read: () => Promise<T>): (sinceMs: number) => Promise<T> {
  let latest: { at: number; value: Promise<T> } | undefined;
  return (sinceMs) => {
    const at = performance.now();
    if (latest === undefined || at - latest.at >= sharedMs || latest.at < sinceMs) {
      latest = { at, value: read() };
    }
    return latest.value;
  };
}

/** Something to wait for that may come before the wait. */
function createAlarm(signal: AbortSignal) {
  let rings = new AbortController();
  let rangAt = Number.NEGATIVE_INFINITY;
  return {
    wake: () => {
      rangAt = performance.now();
      rings.abort();
    },
    /** When it rang last. */
    rangAt: () => rangAt,
    async wait(ms: number): Promise<void> {
      const both = AbortSignal.any([signal, rings.signal]);
      await sleep(ms, undefined, { signal: both }).catch(() => {});
      rings = new AbortController();
    },
  };
}
