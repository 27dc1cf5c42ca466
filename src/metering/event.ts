import { createHash } from "node:crypto";
import { z } from "zod";

/** Events in flight share one shard until there are more. */
export const shard = 0;

const nanos = z
  .string()
  .regex(/^\d{1,18}$/)
  .transform((text) => BigInt(text));

/**
 * An event as the journal keeps it: what was used, and the price that was pinned when it came in.
 *
 * Amounts are strings: JSON numbers lose digits.
 */
export const journalEvent = z.object({
  source: z.string().min(1),
  id: z.string().min(1),
  account: z.string(),
  mode: z.enum(["live", "test"]),
  api: z.string(),
  developer: z.string(),
  key: z.string().nullable(),
  endpoint: z.string(),
  status: z.int(),
  time: z.iso.datetime(),
  priceVersion: z.int().nonnegative(),
  feeBasisPoints: z.int().min(0).max(10_000),
  charged: nanos,
  lease: z.string().nullable(),
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
