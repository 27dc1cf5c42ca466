import { hash } from "node:crypto";
import type { Outcome } from "../catalog/price-rule.ts";
import type { Mode } from "../ledger/store.ts";

/** Shards of the journal. All of an account's entries are in one of them. */
export const shardCount = 2;

/** The source that only the gateway may use. */
export const gatewaySource = "gateway";

/** Where an entry stands: the journal's position, and which of the row's entries it is, from zero. */
export type Place = { position: bigint; ordinal: number };

/** The price that held when an event came in. */
export type Pinned = {
  apiId: string;
  developerId: string;
  version: number;
  unitNanos: bigint;
  feeBasisPoints: number;
  /** The canonical text of how it counts. Empty: unitNanos for each unit, free from status 500 on. */
  rule: string;
};

/** What somebody used, as the journal keeps it. */
export interface UsageEntry {
  kind: "usage" | "replay";
  account: string;
  source: string;
  id: string;
  price: Pinned;
  endpoint: string;
  /** As the sender said it: zero is 200. */
  status: number;
  /** Of the event; of its receipt when the sender said no time. Microseconds since 1970. */
  timeMicros: bigint;
  timeUnset: boolean;
  mode: Mode;
  /** What meters read: a JSON object, or empty. */
  data: string;
  /** As the sender said them: zero is one. */
  units: bigint;
  /** What the door promised. */
  chargedNanos: bigint;
  lease: string | null;
  keyId: string | null;
  /** The gateway's. Empty for what did not pass through it. */
  requestId: string;
  /** How the call ended: belongs to what was said. */
  outcome: Outcome;
  /** Units that were used before it in the month, as far as was known: where its tiers begin. */
  unitsBefore: bigint;
  /** Where the quarantined event stood. Only of a replay. */
  replays: Place | null;
  /** The body's hash that a row of codec 0 holds. Null in all that is written today. */
  keptHash: Buffer | null;
}

/** What takes an applied event back, or gives it another charge. */
export interface CorrectionEntry {
  kind: "void" | "adjust";
  account: string;
  source: string;
  id: string;
  correctionId: string;
  /** The whole new charge. Zero of a void. */
  adjustedNanos: bigint;
  reason: string;
}

/** One entry of the journal. */
export type Entry = UsageEntry | CorrectionEntry;

/** The shard of an account's entries. */
export function shardOf(accountId: string, shards: number): number {
  return hash("sha256", accountId, "buffer").readUInt32BE(0) % shards;
}

/** Source and id in one text. Unambiguous: source `a-b` with id `c` is not source `a` with id `b-c`. */
export function identityKey(source: string, id: string): string {
  return `${Buffer.byteLength(source)}:${source}${id}`;
}

/** The HTTP status of a use. */
export function statusOf({ status }: Pick<UsageEntry, "status">): number {
  return status === 0 ? 200 : status;
}

/** The units of a use. */
export function unitsOf({ units }: Pick<UsageEntry, "units">): bigint {
  return units === 0n ? 1n : units;
}

/**
 * The hash of what the sender said of an event. The same identity with another hash is a conflict.
 *
 * Each part is preceded by its length, so that no two different events have the same parts. What says nothing of
 * units, data and outcome has the hash that earlier versions gave it: an event may come again after an update.
 */
export function bodyHash(entry: UsageEntry): Buffer {
  if (entry.keptHash !== null) {
    return entry.keptHash;
  }
  const { price, requestId, endpoint, data, outcome } = entry;
  const units = unitsOf(entry);
  const time = entry.timeUnset ? "" : timeText(entry.timeMicros);
  let text = requestId === "" ? "" : part(requestId);
  text += part(price.apiId) + part(time) + part(endpoint) + part(String(entry.status));
  if (requestId === "") {
    text += part(entry.mode);
  }
  if (units !== 1n || data !== "" || outcome !== "whole") {
    text += part(units.toString()) + part(data);
  }
  if (outcome !== "whole") {
    text += part(outcome);
  }
  // As text first: a buffer that hash() makes has memory of its own, which takes as long again to give and take back.
  return Buffer.from(hash("sha256", text, "binary"), "latin1");
}

function part(text: string): string {
  return `${Buffer.byteLength(text)}:${text}`;
}

/** A time in microseconds since 1970 as RFC 3339 writes it, in UTC. */
export function timeText(micros: bigint): string {
  const text = new Date(Number(micros / 1_000n)).toISOString();
  const rest = micros % 1_000n;
  return rest === 0n ? text : text.replace("Z", `${rest.toString().padStart(3, "0")}Z`);
}

const quarterMicros = 15n * 60n * 1_000_000n;

/** Which quarter of an hour since 1970 a time lies in. */
export function quarterIndexOf(micros: bigint): number {
  return Number(micros / quarterMicros);
}

/** When the quarter of an hour began that a time lies in: the grain of the roll-ups. */
export function bucketMicrosOf(micros: bigint): bigint {
  return micros - (micros % quarterMicros);
}

/** The first day of the UTC month that a time lies in, for example `2026-11-01`. */
export function monthOf(micros: bigint): string {
  const date = new Date(Number(micros / 1_000n));
  const year = String(date.getUTCFullYear()).padStart(4, "0");
  const month = date.getUTCMonth() + 1;
  return `${year}-${month < 10 ? "0" : ""}${month}-01`;
}
