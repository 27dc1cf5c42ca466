import { timestampDate, timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import type {
  MeteringService,
  UsageEvent,
} from "../../gen/callora/metering/v1/metering_service_pb.ts";
import { type ApiRow, findApi } from "../catalog/store.ts";
import type { Database } from "../db/database.ts";
import type { Tx } from "../db/pool.ts";
import { invalidArgument, notFound, type Violation } from "../rpc/errors.ts";
import { requirePrincipal } from "../rpc/principal.ts";
import { eventHash, type JournalEvent } from "./event.ts";
import { getWatermark, type Journal } from "./journal.ts";
import { type EventRow, findEvent } from "./store.ts";

/** How late an event may come, and how far ahead a sender's clock may be. */
const lateMsMax = 40 * 24 * 60 * 60 * 1000;
const earlyMsMax = 5 * 60 * 1000;

/** The source that only the gateway may use. */
export const gatewaySource = "gateway";

/** The handlers of proto/callora/metering/v1/metering_service.proto. */
export function meteringService(deps: {
  db: Database;
  journal: Journal;
  existingAccounts: (tx: Tx, accountIds: string[]) => Promise<Set<string>>;
  now: () => Date;
}): ServiceImpl<typeof MeteringService> {
  const { db, journal } = deps;
  return {
    async recordUsage({ events }) {
      const now = deps.now();
      const { accounts, apis } = await db.systemTransaction(async (tx) => ({
        accounts: await deps.existingAccounts(tx, [...new Set(events.map((e) => e.accountId))]),
        apis: await readApis(tx, [...new Set(events.map((e) => e.apiId))]),
      }));
      const violations = events.flatMap((event, index) =>
        check(event, { accounts, apis, now }).map(({ field, description }) => ({
          field: `events[${index}].${field}`,
          description,
        })),
      );
      if (violations.length > 0) {
        throw invalidArgument(violations);
      }
      const rows = events.flatMap((event) => {
        const api = apis.get(event.apiId);
        return api === undefined ? [] : [toJournal(event, api, now)];
      });
      return { position: await journal.append(rows) };
    },

    async getEvent({ source, id }, ctx) {
      const { accountId } = requirePrincipal(ctx);
      const row = await db.tenantRead(accountId, (tx) => findEvent(tx, { accountId, source, id }));
      if (row === null) {
        throw notFound("the event");
      }
      return { event: toEvent(row) };
    },

    async getWatermark() {
      const { applied, durable } = await db.systemTransaction(getWatermark);
      return { appliedPosition: applied, durablePosition: durable };
    },
  };
}

async function readApis(tx: Tx, apiIds: string[]): Promise<Map<string, ApiRow>> {
  const apis = new Map<string, ApiRow>();
  for (const apiId of apiIds) {
    const api = await findApi(tx, apiId);
    if (api !== null) {
      apis.set(apiId, api);
    }
  }
  return apis;
}

function check(
  event: UsageEvent,
  known: { accounts: Set<string>; apis: Map<string, ApiRow>; now: Date },
): Violation[] {
  const violations: Violation[] = [];
  for (const field of ["source", "id", "endpoint"] as const) {
    if (!isStorable(event[field])) {
      violations.push({ field, description: "must be well-formed text without NUL" });
    }
  }
  if (event.source === gatewaySource) {
    violations.push({ field: "source", description: "is the gateway's own" });
  }
  if (!known.accounts.has(event.accountId)) {
    violations.push({ field: "account_id", description: "no such account" });
  }
  if (!known.apis.has(event.apiId)) {
    violations.push({ field: "api_id", description: "no such API" });
  }
  const ageMs =
    event.time === undefined ? 0 : known.now.getTime() - timestampDate(event.time).getTime();
  // Asked so that a time beyond all dates, whose age is not a number, is refused too.
  if (!(ageMs <= lateMsMax && ageMs >= -earlyMsMax)) {
    const description = "must be at most 40 days ago and at most 5 minutes ahead";
    violations.push({ field: "time", description });
  }
  return violations;
}

/** The journal is JSON in PostgreSQL, which takes no NUL and no half of a surrogate pair. */
function isStorable(text: string): boolean {
  return text.isWellFormed() && !text.includes("\0");
}

/** An event without a time counts when it came in; what the sender said does not hold that time. */
function toJournal(event: UsageEvent, api: ApiRow, now: Date): JournalEvent {
  const time = event.time === undefined ? null : timestampDate(event.time).toISOString();
  const status = event.statusCode === 0 ? 200 : event.statusCode;
  const mode = event.test ? "test" : "live";
  return {
    source: event.source,
    id: event.id,
    account: event.accountId,
    mode,
    api: api.id,
    developer: api.account_id,
    key: null,
    endpoint: event.endpoint,
    status,
    time: time ?? now.toISOString(),
    priceVersion: api.price_version,
    feeBasisPoints: api.fee_basis_points,
    charged: (status >= 500 ? 0n : api.call_nanos).toString(),
    lease: null,
    hash: eventHash([api.id, time ?? "", event.endpoint, String(event.statusCode), mode]),
  };
}

function toEvent(row: EventRow) {
  return {
    event: {
      source: row.source,
      id: row.id,
      accountId: row.account_id,
      apiId: row.api_id,
      time: timestampFromMs(row.occurred_at),
      endpoint: row.endpoint,
      statusCode: row.status_code,
      test: row.mode === "test",
    },
    chargedNanos: row.charged_nanos,
    priceVersion: row.price_version,
    position: row.position,
    duplicates: row.duplicates,
    conflicts: row.conflicts,
  };
}
