import { timestampFromDate, timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import type { MeteringService } from "../../gen/callora/metering/v1/metering_service_pb.ts";
import type { Database } from "../db/database.ts";
import { notFound } from "../rpc/errors.ts";
import { requirePrincipal } from "../rpc/principal.ts";
import { getWatermark } from "./journal.ts";
import { type EventRow, findEvent } from "./store.ts";

/** What looking up needs. */
export interface LookUpDeps {
  db: Database;
}

/** The handlers that say what became of an event, and how far the journal is applied. */
export function lookUpMethods({
  db,
}: LookUpDeps): Pick<ServiceImpl<typeof MeteringService>, "getEvent" | "getWatermark"> {
  return {
    async getEvent({ source, id }, ctx) {
      const { accountId } = requirePrincipal(ctx);
      const row = await db.tenantRead(accountId, (tx) => findEvent(tx, { accountId, source, id }));
      if (row === null) {
        throw notFound("the event");
      }
      return { event: toEvent(row) };
    },

    async getWatermark() {
      const { applied, durable, oldestWaiting } = await db.systemTransaction(getWatermark);
      return {
        appliedPosition: applied,
        durablePosition: durable,
        ...(oldestWaiting === null ? {} : { oldestWaitingTime: timestampFromDate(oldestWaiting) }),
      };
    },
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
