import type { Timestamp } from "@bufbuild/protobuf/wkt";
import type { UsageEvent } from "../../gen/callora/metering/v1/metering_service_pb.ts";
import type { RuleReader } from "../catalog/price-rule.ts";
import type { Violation } from "../rpc/errors.ts";
import { gatewaySource, type Pinned, type UsageEntry } from "./entry.ts";
import { dataProblem } from "./event-data.ts";
import { chargeOf } from "./rate.ts";
import { entryLimits } from "./row-limits.ts";

/** How late an event may come, and how far ahead a sender's clock may be. */
const lateSecondsMax = 40 * 24 * 60 * 60;
const earlySecondsMax = 5 * 60;

/** What events are checked against. */
export interface Known {
  /** Account ids of which there is no account. */
  missingAccounts: ReadonlySet<string>;
  /** By the API's id. One that is not there is of no API. */
  prices: ReadonlyMap<string, Pinned>;
  now: Date;
}

const nameLengthMax = 200;
const statusMax = 599;
const dataBytesMax = 16_384;
const unitsMax = 1_000_000_000_000n;

/**
 * What is wrong with an event by itself.
 *
 * The rules are those of the contract. A validator made of them finds the same, and takes many times as long, of which
 * a batch of events would notice most.
 */
export function checkShape(event: UsageEvent): Violation[] {
  const violations: Violation[] = [];
  const refuse = (field: string, description: string) => violations.push({ field, description });
  const { source, id, endpoint, data } = event;
  if (!isName(source)) {
    refuse("source", `must be 1 to ${nameLengthMax} characters, without U+0000`);
  }
  if (!isName(id)) {
    refuse("id", `must be 1 to ${nameLengthMax} characters, without U+0000`);
  }
  if (endpoint !== "" && !isName(endpoint)) {
    refuse("endpoint", `must be up to ${nameLengthMax} characters, without U+0000`);
  }
  if (!entryLimits.accountId.test(event.accountId)) {
    refuse("account_id", "must be an account's id");
  }
  if (!entryLimits.apiId.test(event.apiId)) {
    refuse("api_id", "must be an API's id");
  }
  if (event.time !== undefined && !isTime(event.time)) {
    refuse("time", "must be a time in the years 1 to 9999");
  }
  if (event.statusCode > statusMax) {
    refuse("status_code", `must be at most ${statusMax}`);
  }
  if (event.units > unitsMax) {
    refuse("units", `must be at most ${unitsMax}`);
  }
  const problem = data === "" ? undefined : checkData(data);
  if (problem !== undefined) {
    refuse("data", problem);
  }
  return violations;
}

/** The limit counts characters of Unicode, of which some are two of the string's. */
function isName(text: string): boolean {
  const isShort =
    text.length <= nameLengthMax ||
    (text.length <= 2 * nameLengthMax && [...text].length <= nameLengthMax);
  return text !== "" && isShort && text.isWellFormed() && !text.includes("\0");
}

function checkData(data: string): string | undefined {
  const isLong = data.length > dataBytesMax || Buffer.byteLength(data) > dataBytesMax;
  if (isLong) {
    return `must be at most ${dataBytesMax} bytes`;
  }
  return data.isWellFormed() ? dataProblem(data) : "must be well-formed text";
}

function isTime({ seconds, nanos }: Timestamp): boolean {
  return (
    seconds >= -62_135_596_800n && seconds <= 253_402_300_799n && nanos >= 0 && nanos <= 999_999_999
  );
}

/** What is wrong with an event, of which nothing is wrong by itself, by what else there is. */
export function checkKnown(event: UsageEvent, known: Known): Violation[] {
  const violations: Violation[] = [];
  if (event.source === gatewaySource) {
    violations.push({ field: "source", description: "is the gateway's own" });
  }
  if (known.missingAccounts.has(event.accountId)) {
    violations.push({ field: "account_id", description: "no such account" });
  }
  const price = known.prices.get(event.apiId);
  if (price === undefined) {
    violations.push({ field: "api_id", description: "no such API" });
  } else if (price.rule === "" && event.units * price.unitNanos > entryLimits.nanosMax) {
    violations.push({ field: "units", description: "must not cost more than one event may" });
  }
  if (event.time !== undefined && !isInTime(event.time, known.now)) {
    const description = "must be at most 40 days ago and at most 5 minutes ahead";
    violations.push({ field: "time", description });
  }
  return violations;
}

function isInTime({ seconds, nanos }: Timestamp, now: Date): boolean {
  const age = now.getTime() / 1_000 - (Number(seconds) + nanos / 1e9);
  return age <= lateSecondsMax && age >= -earlySecondsMax;
}

/** The journal's entry of a checked event. One without a time counts when it came in. */
export function toEntry(
  event: UsageEvent,
  price: Pinned,
  { now, readRule }: { now: Date; readRule?: RuleReader },
): UsageEntry {
  const { time } = event;
  const entry: UsageEntry = {
    kind: "usage",
    account: event.accountId,
    source: event.source,
    id: event.id,
    price,
    endpoint: event.endpoint,
    status: event.statusCode,
    timeMicros: time === undefined ? BigInt(now.getTime()) * 1_000n : microsOf(time),
    timeUnset: time === undefined,
    mode: event.test ? "test" : "live",
    data: event.data,
    units: event.units,
    chargedNanos: 0n,
    lease: null,
    keyId: null,
    requestId: "",
    replays: null,
    outcome: "whole",
    unitsBefore: 0n,
    keptHash: null,
  };
  entry.chargedNanos = chargeOf(entry, readRule);
  return entry;
}

/** Microseconds since 1970. */
export function microsOf({ seconds, nanos }: Timestamp): bigint {
  return seconds * 1_000_000n + BigInt(Math.floor(nanos / 1_000));
}
