import { z } from "zod";
import type { UsageEntry } from "./entry.ts";

/** A whole batch of the largest still fits into an int8. */
const nanos = z
  .string()
  .regex(/^\d{1,15}$/)
  .transform((text) => BigInt(text));

const accountId = z.string().regex(/^acc_[0-9a-v]{26}$/);

/** An event as rows of codec 0 hold it. Amounts are strings: JSON numbers lose digits. */
const jsonEvent = z.object({
  source: z.string().min(1).max(200),
  id: z.string().min(1).max(200),
  account: accountId,
  mode: z.enum(["live", "test"]),
  api: z.string().regex(/^api_[0-9a-v]{26}$/),
  developer: accountId,
  key: z.string().max(64).nullable(),
  endpoint: z.string().max(300),
  status: z.int().min(0).max(999),
  time: z.iso.datetime().regex(/^(?:19[7-9]\d|2\d{3})-/),
  priceVersion: z.int32().nonnegative(),
  feeBasisPoints: z.int().min(0).max(10_000),
  charged: nanos,
  lease: z.string().max(64).nullable(),
  /** Of what the sender said. */
  hash: z.string().regex(/^[0-9a-f]{64}$/),
});

/** The entry of a JSON event of codec 0. Null when it makes no sense. */
export function readJsonEvent(raw: unknown): UsageEntry | null {
  const result = jsonEvent.safeParse(raw);
  if (!result.success) {
    return null;
  }
  const event = result.data;
  return {
    kind: "usage",
    account: event.account,
    source: event.source,
    id: event.id,
    price: {
      apiId: event.api,
      developerId: event.developer,
      version: event.priceVersion,
      // What a unit cost was not kept: what was charged was one unit.
      unitNanos: event.charged,
      feeBasisPoints: event.feeBasisPoints,
      rule: "",
    },
    endpoint: event.endpoint,
    status: event.status,
    timeMicros: BigInt(Date.parse(event.time)) * 1_000n,
    timeUnset: false,
    mode: event.mode,
    data: "",
    units: 1n,
    chargedNanos: event.charged,
    lease: event.lease,
    keyId: event.key,
    requestId: "",
    outcome: "whole",
    unitsBefore: 0n,
    replays: null,
    keptHash: Buffer.from(event.hash, "hex"),
  };
}
