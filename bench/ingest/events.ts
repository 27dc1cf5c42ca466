import { randomBytes } from "node:crypto";
import { create, toBinary } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import {
  RecordUsageRequestSchema,
  type UsageEvent,
  UsageEventSchema,
} from "../../gen/callora/metering/v1/metering_service_pb.ts";
import type { Market } from "../../test/support/load-events.ts";

/** Events of one run. */
export interface Lot {
  count: number;
  /** How many of a hundred come twice. */
  duplicatesPercent: number;
  /** Whether ids grow with time, as UUIDv7 does, or are in no order, as UUIDv4 is. */
  ids: "v7" | "v4";
}

/** Most events are of the last minute, and one in twenty is up to an hour late. */
const spanMs = 60 * 1000;
const lateSpanMs = 60 * 60 * 1000;
const lateEvery = 20;

/** Make events of all consumers and APIs; no two lots have one in common. */
export function makeEvents(market: Market, { count, duplicatesPercent, ids }: Lot): UsageEvent[] {
  // The last consumer has too little credit.
  const consumers = market.consumers.slice(0, -1);
  const begin = Date.now();
  const events: UsageEvent[] = [];
  for (let n = 0; n < count; n++) {
    const repeated = n % 100 < duplicatesPercent ? events[n - 57] : undefined;
    events.push(
      repeated ??
        create(UsageEventSchema, {
          source: "urn:bench:ingest",
          id: newUuid(ids, begin + n / 50),
          accountId: consumers[(n * 31) % consumers.length] ?? "",
          apiId: market.apis[n % market.apis.length]?.id ?? "",
          time: timestampFromMs(
            market.endMs - ((n * 7_919_000) % (n % lateEvery === 0 ? lateSpanMs : spanMs)),
          ),
          endpoint: `POST /v1/items/${n % 7}`,
        }),
    );
  }
  return events;
}

function newUuid(version: "v7" | "v4", ms: number): string {
  const random = randomBytes(16).toString("hex");
  const time = Math.floor(ms).toString(16).padStart(12, "0");
  const hex =
    version === "v7" ? `${time}7${random.slice(13)}` : `${random.slice(0, 12)}4${random.slice(13)}`;
  return [0, 8, 12, 16, 20].map((at, index, all) => hex.slice(at, all[index + 1])).join("-");
}

/** Requests of so many events each, as gRPC messages. */
export function toMessages(events: readonly UsageEvent[], batch: number): Buffer[] {
  const messages: Buffer[] = [];
  for (let at = 0; at < events.length; at += batch) {
    const request = create(RecordUsageRequestSchema, { events: events.slice(at, at + batch) });
    const bytes = toBinary(RecordUsageRequestSchema, request);
    const head = Buffer.alloc(5);
    head.writeUInt32BE(bytes.length, 1);
    messages.push(Buffer.concat([head, bytes]));
  }
  return messages;
}
