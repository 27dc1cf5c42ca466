import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import {
  type QuarantinedEventSchema,
  QuarantineReason,
  QuarantineState,
} from "../../gen/callora/metering/v1/correction_service_pb.ts";
import type { UsageEventSchema } from "../../gen/callora/metering/v1/metering_service_pb.ts";
import { decodeRow } from "./codec.ts";
import { type Entry, type Place, statusOf, type UsageEntry, unitsOf } from "./entry.ts";
import { readJsonEvent } from "./json-codec.ts";
import type { QuarantinedRow } from "./quarantine-store.ts";

/** The entry of a row in quarantine. Null when it cannot be read. */
export function entryOf(row: QuarantinedRow): Entry | null {
  if (row.reason === "MALFORMED") {
    return null;
  }
  if (row.raw === null) {
    return row.event === null ? null : readJsonEvent(JSON.parse(row.event));
  }
  const [entry] = decodeRow({ codec: 1, body: row.raw }).entries;
  return entry === undefined || entry.kind === "malformed" ? null : entry;
}

/** A place as text, for example `12.0`. */
export function placeText({ position, ordinal }: Place): string {
  return `${position}.${ordinal}`;
}

/** The place that a text says. The text must be one. */
export function parsePlace(text: string): Place {
  const [position = "", ordinal = ""] = text.split(".");
  return { position: BigInt(position), ordinal: Number(ordinal) };
}

/** An entry in quarantine as people see it. */
export function toQuarantinedEvent(
  row: QuarantinedRow,
): MessageInitShape<typeof QuarantinedEventSchema> {
  const entry = entryOf(row);
  return {
    id: placeText(row),
    reason: QuarantineReason[row.reason],
    detail: row.detail,
    ...(entry === null
      ? { raw: row.raw ?? Buffer.from(row.event ?? "") }
      : { event: toUsageEvent(entry) }),
    chargedNanos: row.charged_nanos,
    state: shownStates[row.state],
    replayPosition: row.replay_position ?? 0n,
    createTime: timestampFromMs(row.created_at),
  };
}

const shownStates = {
  open: QuarantineState.OPEN,
  replayed: QuarantineState.REPLAYED,
  dismissed: QuarantineState.DISMISSED,
} satisfies Record<QuarantinedRow["state"], QuarantineState>;

/** The word of a state in a filter. */
export function stateWord(state: QuarantineState): QuarantinedRow["state"] {
  const words = Object.entries(shownStates).find(([, shown]) => shown === state);
  return (words?.[0] as QuarantinedRow["state"] | undefined) ?? "open";
}

/** The word of a reason in a filter. Empty means any. */
export function reasonWord(reason: QuarantineReason): string {
  const words = ["MALFORMED", "CONFLICT", "POISONED", "OVER_LIMIT"] as const;
  return words.find((word) => QuarantineReason[word] === reason) ?? "";
}

/** What an entry says of its event. Of a correction: which event it is about. */
function toUsageEvent(entry: Entry): MessageInitShape<typeof UsageEventSchema> {
  const { source, id, account: accountId } = entry;
  if ("correctionId" in entry) {
    return { source, id, accountId };
  }
  return {
    source,
    id,
    accountId,
    apiId: entry.price.apiId,
    time: timestampFromMicros(entry.timeMicros),
    endpoint: entry.endpoint,
    statusCode: statusOf(entry),
    test: entry.mode === "test",
    data: entry.data,
    units: unitsOf(entry),
  };
}

function timestampFromMicros(micros: bigint) {
  return { seconds: micros / 1_000_000n, nanos: Number(micros % 1_000_000n) * 1_000 };
}

/** The names of the fields in which two events of one identity differ. */
export function differencesOf(entry: UsageEntry, original: UsageEntry): string[] {
  const fields: [string, unknown, unknown][] = [
    ["api_id", entry.price.apiId, original.price.apiId],
    // Without a time it says nothing of it.
    ["time", entry.timeUnset || entry.timeMicros === original.timeMicros, true],
    ["endpoint", entry.endpoint, original.endpoint],
    ["status_code", statusOf(entry), statusOf(original)],
    ["test", entry.mode, original.mode],
    ["data", entry.data, original.data],
    ["units", unitsOf(entry), unitsOf(original)],
    ["outcome", entry.outcome, original.outcome],
  ];
  return fields.filter(([, left, right]) => left !== right).map(([field]) => field);
}
