import { type Timestamp, timestampFromDate, timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import type {
  ListEventsRequest,
  MeteringService,
} from "../../gen/callora/metering/v1/metering_service_pb.ts";
import type { Database } from "../db/database.ts";
import { splitPage } from "../lib/page-token.ts";
import { failedPrecondition, invalidArgument, notFound } from "../rpc/errors.ts";
import { pageOf } from "../rpc/page.ts";
import { requirePrincipal } from "../rpc/principal.ts";
import { getWatermark } from "./journal.ts";
import { countQuarantined, isQuarantined } from "./quarantine.ts";
import { type EventRange, type EventRow, findEvent, listEvents } from "./store.ts";

/** What looking up needs. */
export interface LookUpDeps {
  db: Database;
  now: () => Date;
}

/** The handlers that say what became of events, and how far the journal is applied. */
export function lookUpMethods({
  db,
  now,
}: LookUpDeps): Pick<
  ServiceImpl<typeof MeteringService>,
  "getEvent" | "listEvents" | "getWatermark"
> {
  // Read before the events: what is up to it is in the answer.
  const readWatermark = async () => (await db.systemTransaction(getWatermark)).applied;
  return {
    async getEvent({ source, id }, ctx) {
      const { accountId } = requirePrincipal(ctx);
      const identity = { accountId, source, id };
      const watermark = await readWatermark();
      const row = await db.tenantRead(accountId, (tx) => findEvent(tx, identity));
      if (row !== null) {
        return { event: toEvent(row), watermark };
      }
      if (await db.systemTransaction((tx) => isQuarantined(tx, identity))) {
        const message = "Cannot show the event: it could not be applied";
        throw failedPrecondition("EVENT_QUARANTINED", message);
      }
      throw notFound("the event");
    },

    async listEvents(req, ctx) {
      const { accountId } = requirePrincipal(ctx);
      const { size, ...range } = rangeOf(req, now());
      const { startMicros } = range;
      const watermark = await readWatermark();
      const rows = await db.tenantRead(accountId, (tx) =>
        listEvents(tx, { accountId, ...range, limit: size + 1 }),
      );
      const { page, nextPageToken } = splitPage(rows, {
        size,
        id: (row) => `${placeText(row)}:${startMicros}`,
      });
      return { events: page.map(toEvent), nextPageToken, watermark };
    },

    async getWatermark(_req, ctx) {
      const { accountId } = requirePrincipal(ctx);
      const { applied, durable, oldestWaiting, quarantined } = await db.systemTransaction(
        async (tx) => ({
          ...(await getWatermark(tx)),
          quarantined: await countQuarantined(tx, accountId),
        }),
      );
      return {
        appliedPosition: applied,
        durablePosition: durable,
        quarantined: BigInt(quarantined),
        ...(oldestWaiting === null ? {} : { oldestWaitingTime: timestampFromDate(oldestWaiting) }),
      };
    },
  };
}

const dayMicros = 86_400_000_000n;
/** The last of the year 9999. */
const microsMax = 253_402_300_799_999_999n;

/** The range, page and size that a request asks for. Throws INVALID_ARGUMENT. */
function rangeOf(
  req: ListEventsRequest,
  now: Date,
): Omit<EventRange, "accountId" | "limit"> & { size: number } {
  const { size, after } = pageOf(req);
  const end = req.endTime === undefined ? BigInt(now.getTime()) * 1_000n : toMicros(req.endTime);
  const page = after === "" ? null : readPlace(after);
  if (page === undefined) {
    const description = "must be the next_page_token of an earlier answer";
    throw invalidArgument([{ field: "page_token", description }]);
  }
  // Without a start all pages begin where the first does: it moves with the time.
  const unsaid = page === null ? end - dayMicros : page.startMicros;
  const start = req.startTime === undefined ? unsaid : toMicros(req.startTime);
  if (start >= end) {
    throw invalidArgument([{ field: "start_time", description: "must be before end_time" }]);
  }
  // No event is from before 1970.
  return {
    size,
    startMicros: start > 0n ? start : 0n,
    endMicros: end > 0n ? end : 0n,
    before: page,
  };
}

function toMicros({ seconds, nanos }: Timestamp): bigint {
  return seconds * 1_000_000n + BigInt(Math.floor(nanos / 1_000));
}

function placeText({ occurred_micros, position, ordinal }: EventRow): string {
  return `${occurred_micros}:${position}:${ordinal}`;
}

function readPlace(text: string) {
  const pattern = /^(\d{1,18}):(\d{1,18}):(\d{1,9}):(\d{1,18})$/;
  const [, micros, position, ordinal, start] = pattern.exec(text) ?? [];
  return micros === undefined ||
    position === undefined ||
    start === undefined ||
    BigInt(micros) > microsMax ||
    BigInt(start) > microsMax
    ? undefined
    : {
        startMicros: BigInt(start),
        micros: BigInt(micros),
        place: { position: BigInt(position), ordinal: Number(ordinal) },
      };
}

/** An applied event as its account sees it. */
export function toEvent(row: EventRow) {
  return {
    event: {
      source: row.source,
      id: row.id,
      accountId: row.account_id,
      apiId: row.api_id,
      time: toTimestamp(row.occurred_micros),
      endpoint: row.endpoint,
      statusCode: row.status_code,
      test: row.mode === "test",
      data: row.data,
      units: row.units,
    },
    chargedNanos: row.charged_nanos,
    priceVersion: row.price_version,
    position: row.position,
    duplicates: row.duplicates,
    conflicts: row.conflicts,
    ordinal: row.ordinal,
    receiveTime: timestampFromMs(row.received_at),
    bookedMonth: row.booked_month,
    correctedNanos: row.corrected_nanos,
  };
}

function toTimestamp(micros: bigint) {
  return { seconds: micros / 1_000_000n, nanos: Number(micros % 1_000_000n) * 1_000 };
}
