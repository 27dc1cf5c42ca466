import assert from "node:assert";
import { z } from "zod";

/** What no longer holds, as the processes hear it. */
export interface Announcement {
  epoch: bigint;
  topic: string;
  keys: string[];
  /** False: more keys of the same epoch follow. */
  isLast: boolean;
}

/** The channel of PostgreSQL that announcements come through. */
export const channel = "callora_trust";

// PostgreSQL takes less than 8,000 bytes.
const payloadBytesMax = 7_000;
const keyBytesMax = 500;
const keysMax = 10_000;

const announced = z.object({
  epoch: z.string().regex(/^\d{1,19}$/),
  topic: z.string(),
  keys: z.array(z.string()),
  last: z.boolean(),
});

/** The payloads that say it, each as long as PostgreSQL takes. */
export function toPayloads({
  epoch,
  topic,
  keys,
}: {
  epoch: bigint;
  topic: string;
  keys: readonly string[];
}): string[] {
  assert(keys.length <= keysMax, "Cannot announce so many keys at once");
  const chunks: string[][] = [[]];
  let bytes = 0;
  for (const key of keys) {
    const more = Buffer.byteLength(JSON.stringify(key)) + 1;
    assert(more <= keyBytesMax, "Cannot announce so long a key");
    if (bytes + more > payloadBytesMax) {
      chunks.push([]);
      bytes = 0;
    }
    chunks.at(-1)?.push(key);
    bytes += more;
  }
  return chunks.map((chunk, index) =>
    JSON.stringify({
      epoch: String(epoch),
      topic,
      keys: chunk,
      last: index === chunks.length - 1,
    } satisfies z.input<typeof announced>),
  );
}

/** Read a payload. Null: it is no announcement. */
export function fromPayload(payload: string): Announcement | null {
  const { success, data } = announced.safeParse(parse(payload));
  if (!success) {
    return null;
  }
  const { epoch, topic, keys, last } = data;
  return { epoch: BigInt(epoch), topic, keys, isLast: last };
}

function parse(payload: string): unknown {
  try {
    return JSON.parse(payload);
  } catch {
    return undefined;
  }
}
