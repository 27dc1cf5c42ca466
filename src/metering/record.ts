import { pathToString } from "@bufbuild/protobuf/reflect";
import { type Timestamp, timestampDate } from "@bufbuild/protobuf/wkt";
import { createValidator, type Validator } from "@bufbuild/protovalidate";
import { Code, type ServiceImpl } from "@connectrpc/connect";
import {
  type MeteringService,
  type UsageEvent,
  UsageEventSchema,
} from "../../gen/callora/metering/v1/metering_service_pb.ts";
import { type ApiRow, findApi } from "../catalog/store.ts";
import type { Database } from "../db/database.ts";
import type { Tx } from "../db/pool.ts";
import { invalidArgument, reasoned, type Violation } from "../rpc/errors.ts";
import { gatewaySource, type UsageEntry } from "./entry.ts";
import type { Journal } from "./journal.ts";

/** How late an event may come, and how far ahead a sender's clock may be. */
const lateMsMax = 40 * 24 * 60 * 60 * 1000;
const earlyMsMax = 5 * 60 * 1000;

/** What recording needs. */
export interface RecordDeps {
  db: Database;
  journal: Journal;
  existingAccounts: (tx: Tx, accountIds: string[]) => Promise<Set<string>>;
  now: () => Date;
}

/** The handlers that record usage. */
export function recordMethods(
  deps: RecordDeps,
): Pick<ServiceImpl<typeof MeteringService>, "recordUsage" | "streamUsage"> {
  const { db, journal } = deps;
  const validator = createValidator();
  return {
    async recordUsage({ events }) {
      const now = deps.now();
      const { accounts, apis } = await db.systemTransaction(async (tx) => ({
        accounts: await deps.existingAccounts(tx, [...new Set(events.map((e) => e.accountId))]),
        apis: await readApis(tx, [...new Set(events.map((e) => e.apiId))]),
      }));
      const violations = events.flatMap((event, index) =>
        check(event, { validator, accounts, apis, now }).map(({ field, description }) => ({
          field: `events[${index}].${field}`,
          description,
        })),
      );
      if (violations.length > 0) {
        throw invalidArgument(violations);
      }
      const entries = events.flatMap((event) => {
        const api = apis.get(event.apiId);
        return api === undefined ? [] : [toEntry(event, api, now)];
      });
      const { position } = await journal.append(entries);
      return { position };
    },

    streamUsage() {
      const message = "Cannot record a stream of events: not there yet";
      throw reasoned(Code.Unimplemented, { reason: "NOT_IMPLEMENTED", message });
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

interface Known {
  validator: Validator;
  accounts: Set<string>;
  apis: Map<string, ApiRow>;
  now: Date;
}

/** The request's own rule passes its events by: they are checked one by one. */
function check(event: UsageEvent, known: Known): Violation[] {
  const result = known.validator.validate(UsageEventSchema, event);
  if (result.kind === "error") {
    throw result.error;
  }
  if (result.kind === "invalid") {
    return result.violations.map(({ field, message }) => ({
      field: pathToString(field),
      description: message,
    }));
  }
  return checkKnown(event, known);
}

function checkKnown(event: UsageEvent, known: Known): Violation[] {
  const violations: Violation[] = [];
  for (const field of ["source", "id", "endpoint", "data"] as const) {
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

/** PostgreSQL's text takes no NUL, and no half of a surrogate pair. */
function isStorable(text: string): boolean {
  return text.isWellFormed() && !text.includes("\0");
}

/** An event without a time counts when it came in; what the sender said does not hold that time. */
function toEntry(event: UsageEvent, api: ApiRow, now: Date): UsageEntry {
  const isFailed = event.statusCode >= 500;
  return {
    kind: "usage",
    account: event.accountId,
    source: event.source,
    id: event.id,
    price: {
      apiId: api.id,
      developerId: api.account_id,
      version: api.price_version,
      unitNanos: api.call_nanos,
      feeBasisPoints: api.fee_basis_points,
    },
    endpoint: event.endpoint,
    status: event.statusCode,
    timeMicros: event.time === undefined ? BigInt(now.getTime()) * 1_000n : microsOf(event.time),
    timeUnset: event.time === undefined,
    mode: event.test ? "test" : "live",
    data: event.data,
    units: event.units,
    chargedNanos: isFailed ? 0n : api.call_nanos,
    lease: null,
    keyId: null,
    requestId: "",
    replays: null,
    keptHash: null,
  };
}

function microsOf({ seconds, nanos }: Timestamp): bigint {
  return seconds * 1_000_000n + BigInt(Math.floor(nanos / 1_000));
}
