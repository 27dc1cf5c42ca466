import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { z } from "zod";
import {
  EntryKind,
  type JournalEntry,
  JournalEntrySchema,
  type JournalRow,
  JournalRowSchema,
  type PinnedPrice,
} from "../../gen/callora/metering/v1/journal_pb.ts";
import type { Entry, Pinned } from "./entry.ts";
import { readJsonEvent } from "./json-codec.ts";

/** What the journal holds in the place of an entry and nobody can read. */
export interface Malformed {
  kind: "malformed";
  /** As it came: an entry's bytes, or the whole row's. */
  raw: Buffer;
  detail: string;
}

/** The bytes of a journal row, codec 1: callora.metering.v1.JournalRow. */
export function encodeRow(entries: readonly Entry[]): Buffer {
  const texts = new Map<string, number>();
  const prices = new Map<string, { index: number; price: Pinned }>();
  const textOf = (text: string) => indexOf(texts, text);
  function priceOf(price: Pinned): number {
    const { apiId, developerId, version, unitNanos, feeBasisPoints } = price;
    const key = [apiId, developerId, version, unitNanos, feeBasisPoints].join(" ");
    const known = prices.get(key) ?? { index: prices.size, price };
    prices.set(key, known);
    return known.index;
  }
  const written = entries.map((entry) => writeEntry(entry, { textOf, priceOf }));
  const pinned = [...prices.values()].map(({ price }) => ({
    api: textOf(price.apiId),
    developer: textOf(price.developerId),
    version: price.version,
    unitNanos: price.unitNanos,
    feeBasisPoints: price.feeBasisPoints,
  }));
  const row = create(JournalRowSchema, {
    texts: [...texts.keys()],
    prices: pinned,
    entries: written,
  });
  return Buffer.from(toBinary(JournalRowSchema, row));
}

function indexOf(texts: Map<string, number>, text: string): number {
  const known = texts.get(text) ?? texts.size;
  texts.set(text, known);
  return known;
}

const kinds = {
  usage: EntryKind.USAGE,
  replay: EntryKind.REPLAY,
  void: EntryKind.VOID,
  adjust: EntryKind.ADJUST,
} as const;

function writeEntry(
  entry: Entry,
  { textOf, priceOf }: { textOf(text: string): number; priceOf(price: Pinned): number },
): JournalEntry {
  const common = {
    kind: kinds[entry.kind],
    account: textOf(entry.account),
    source: textOf(entry.source),
    id: entry.id,
  };
  if ("correctionId" in entry) {
    const { correctionId, adjustedNanos, reason } = entry;
    return create(JournalEntrySchema, { ...common, correctionId, adjustedNanos, reason });
  }
  return create(JournalEntrySchema, {
    ...common,
    price: priceOf(entry.price),
    endpoint: textOf(entry.endpoint),
    status: entry.status,
    timeMicros: entry.timeMicros,
    timeUnset: entry.timeUnset,
    test: entry.mode === "test",
    data: entry.data,
    units: entry.units,
    chargedNanos: entry.chargedNanos,
    lease: entry.lease ?? "",
    keyId: entry.keyId ?? "",
    requestId: entry.requestId,
    replaysPosition: entry.replays?.position ?? 0n,
    replaysOrdinal: entry.replays?.ordinal ?? 0,
  });
}

/** The entries of a journal row, in their order. What cannot be read is there as it came; never throws. */
export function decodeRow({ codec, body }: { codec: number; body: Buffer }): {
  entries: (Entry | Malformed)[];
} {
  return { entries: codec === 0 ? readJsonRow(body) : readRow(body) };
}

function readJsonRow(body: Buffer): (Entry | Malformed)[] {
  let events: unknown;
  try {
    events = JSON.parse(body.toString());
  } catch {
    return [{ kind: "malformed", raw: body, detail: "the row is no JSON" }];
  }
  // A row that is no list is one event that makes no sense.
  const list: unknown[] = Array.isArray(events) ? events : [events];
  return list.map(
    (raw) =>
      readJsonEvent(raw) ?? {
        kind: "malformed",
        raw: Buffer.from(JSON.stringify(raw)),
        detail: "the event makes no sense",
      },
  );
}

function readRow(body: Buffer): (Entry | Malformed)[] {
  let row: JournalRow;
  try {
    row = fromBinary(JournalRowSchema, body);
  } catch {
    return [{ kind: "malformed", raw: body, detail: "the row is no JournalRow" }];
  }
  return row.entries.map((written) => {
    const result = entrySchema.safeParse(toEntry(written, row));
    return result.success
      ? result.data
      : {
          kind: "malformed",
          raw: Buffer.from(toBinary(JournalEntrySchema, written)),
          detail: `the entry makes no sense: ${result.error.issues[0]?.path.join(".")}`,
        };
  });
}

function toEntry(written: JournalEntry, { texts, prices }: JournalRow): unknown {
  const common = {
    account: texts[written.account],
    source: texts[written.source],
    id: written.id,
  };
  if (written.kind === EntryKind.VOID || written.kind === EntryKind.ADJUST) {
    const kind = written.kind === EntryKind.VOID ? "void" : "adjust";
    const { correctionId, adjustedNanos, reason } = written;
    return { ...common, kind, correctionId, adjustedNanos, reason };
  }
  const { replaysPosition, replaysOrdinal } = written;
  return {
    ...common,
    kind: { [EntryKind.USAGE]: "usage", [EntryKind.REPLAY]: "replay" }[written.kind as number],
    price: toPinned(prices[written.price], texts),
    endpoint: texts[written.endpoint],
    status: written.status,
    timeMicros: written.timeMicros,
    timeUnset: written.timeUnset,
    mode: written.test ? "test" : "live",
    data: written.data,
    units: written.units,
    chargedNanos: written.chargedNanos,
    lease: written.lease === "" ? null : written.lease,
    keyId: written.keyId === "" ? null : written.keyId,
    requestId: written.requestId,
    replays: replaysPosition === 0n ? null : { position: replaysPosition, ordinal: replaysOrdinal },
    keptHash: null,
  };
}

function toPinned(price: PinnedPrice | undefined, texts: readonly string[]): unknown {
  return (
    price && {
      apiId: texts[price.api],
      developerId: texts[price.developer],
      version: price.version,
      unitNanos: price.unitNanos,
      feeBasisPoints: price.feeBasisPoints,
    }
  );
}

/** Text that a column takes. */
function text(max: number) {
  return z
    .string()
    .max(max)
    .refine((value) => value.isWellFormed() && !value.includes("\0"));
}

const accountId = z.string().regex(/^acc_[0-9a-v]{26}$/);
/** A whole batch of the largest still fits into an int8. */
const nanos = z.bigint().min(0n).max(999_999_999_999_999n);
const place = z.object({ position: z.bigint().min(1n), ordinal: z.int().min(0) });
const identity = { account: accountId, source: text(200).min(1), id: text(200).min(1) };

/** Whatever passes can be applied: a value that a column refuses would stop the shard. */
const entrySchema = z.discriminatedUnion("kind", [
  z.object({
    kind: z.enum(["usage", "replay"]),
    ...identity,
    price: z.object({
      apiId: z.string().regex(/^api_[0-9a-v]{26}$/),
      developerId: accountId,
      version: z.int().min(0),
      unitNanos: nanos,
      feeBasisPoints: z.int().min(0).max(10_000),
    }),
    endpoint: text(300),
    status: z.int().min(0).max(999),
    // Up to the year 3000.
    timeMicros: z.bigint().min(0n).max(32_503_680_000_000_000n),
    timeUnset: z.boolean(),
    mode: z.enum(["live", "test"]),
    data: text(16_384),
    units: z.bigint().min(0n).max(1_000_000_000_000n),
    chargedNanos: nanos,
    lease: text(64).nullable(),
    keyId: text(64).nullable(),
    requestId: text(200),
    replays: place.nullable(),
    keptHash: z.null(),
  }),
  z.object({
    kind: z.enum(["void", "adjust"]),
    ...identity,
    correctionId: z.string().regex(/^cor_[0-9a-v]{26}$/),
    adjustedNanos: nanos,
    reason: text(500),
  }),
]);
