import { createHash } from "node:crypto";
import { z } from "zod";

/** Events in flight share one shard until there are more. */
export const shard = 0;

/** A whole batch of the largest still fits into an int8. */
const nanos = z
  .string()
  .regex(/^\d{1,15}$/)
  .transform((text) => BigInt(text));

const accountId = z.string().regex(/^acc_[0-9a-v]{26}$/);

/**
 * An event as the journal keeps it: what was used, and the price that was pinned when it came in.
 *
 * Amounts are strings: JSON numbers lose digits. Whatever passes can be applied: a value that a column refuses would
 * stop the shard.
 */
export const journalEvent = z.object({
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
  /** Of what the sender said. The same identity with another hash is a conflict. */
  hash: z.string().regex(/^[0-9a-f]{64}$/),
});

/** An event read back from the journal. */
export type AppliedEvent = z.output<typeof journalEvent>;

/** An event to append to the journal. */
export type JournalEvent = z.input<typeof journalEvent>;

/**
 * The hash of what the sender said of an event. Each part is preceded by its length, so that no two different events
 * have the same parts.
 */
export function eventHash(parts: readonly string[]): string {
  const hash = createHash("sha256");
  for (const part of parts) {
    hash.update(`${Buffer.byteLength(part)}:${part}`);
  }
  return hash.digest("hex");
}

/** The quarter of an hour that a time lies in: the grain of the roll-ups. */
export function bucketOf(time: string): string {
  const quarterMs = 15 * 60 * 1000;
  return new Date(Math.floor(Date.parse(time) / quarterMs) * quarterMs).toISOString();
}
