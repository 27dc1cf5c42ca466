import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { z } from "zod";
import {
  EntryKind,
  type JournalEntry,
  JournalEntrySchema,
  type JournalRow,
  JournalRowSchema,
  type PinnedPrice,
} from "../../gen/callora/metering/v1/journal_pb.ts";
import { isRuleText, outcomes } from "../catalog/price-rule.ts";
import type { Entry } from "./entry.ts";
import { readJsonEvent } from "./json-codec.ts";
import { entryLimits as limits } from "./row-limits.ts";
import { readUsualRow } from "./row-reader.ts";
import { writeRow } from "./row-writer.ts";

/** What the journal holds in the place of an entry and nobody can read. */
export interface Malformed {
  kind: "malformed";
  /** As it came: an entry's bytes, or the whole row's. */
  raw: Buffer;
  detail: string;
}

/** The bytes of a journal row, codec 1: callora.metering.v1.JournalRow. */
export function encodeRow(entries: readonly Entry[]): Buffer {
  return writeRow(entries);
}

/** The entries of a journal row, in their order. What cannot be read is there as it came; never throws. */
export function decodeRow({ codec, body }: { codec: number; body: Buffer }): {
  entries: (Entry | Malformed)[];
} {
  return { entries: codec === 0 ? readJsonRow(body) : (readUsualRow(body) ?? readRow(body)) };
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

/** Read a row by its contract, with every entry for itself. Takes ten times as long as readUsualRow(). */
export function readRow(body: Buffer): (Entry | Malformed)[] {
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
    outcome: outcomes[written.outcome],
    unitsBefore: written.unitsBefore,
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
      rule: price.rule,
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

const accountId = z.string().regex(limits.accountId);
const nanos = z.bigint().min(0n).max(limits.nanosMax);
const place = z.object({ position: z.bigint().min(1n), ordinal: z.int().min(0) });
const name = text(limits.nameMax).min(1);
const identity = { account: accountId, source: name, id: name };

/** Whatever passes can be applied: a value that a column refuses would stop the shard. */
const entrySchema = z.discriminatedUnion("kind", [
  z.object({
    kind: z.enum(["usage", "replay"]),
    ...identity,
    price: z.object({
      apiId: z.string().regex(limits.apiId),
      developerId: accountId,
      version: z.int().min(0),
      unitNanos: nanos,
      feeBasisPoints: z.int().min(0).max(limits.feeBasisPointsMax),
      rule: text(limits.ruleMax).refine(isRuleText),
    }),
    endpoint: text(limits.endpointMax),
    status: z.int().min(0).max(limits.statusMax),
    timeMicros: z.bigint().min(0n).max(limits.timeMicrosMax),
    timeUnset: z.boolean(),
    mode: z.enum(["live", "test"]),
    data: text(limits.dataMax),
    units: z.bigint().min(0n).max(limits.unitsMax),
    chargedNanos: nanos,
    lease: text(limits.idMax).nullable(),
    keyId: text(limits.idMax).nullable(),
    requestId: text(limits.requestIdMax),
    outcome: z.enum(outcomes),
    unitsBefore: z.bigint().min(0n).max(limits.unitsMax),
    replays: place.nullable(),
    keptHash: z.null(),
  }),
  z.object({
    kind: z.enum(["void", "adjust"]),
    ...identity,
    correctionId: z.string().regex(limits.correctionId),
    adjustedNanos: nanos,
    reason: text(limits.reasonMax),
  }),
]);
