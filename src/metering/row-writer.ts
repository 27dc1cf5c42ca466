import { EntryKind } from "../../gen/callora/metering/v1/journal_pb.ts";
import { type Outcome, outcomes } from "../catalog/price-rule.ts";
import { createProtoWriter, type ProtoWriter } from "../lib/proto-bytes.ts";
import type { Entry, Pinned } from "./entry.ts";

const kinds = {
  usage: EntryKind.USAGE,
  replay: EntryKind.REPLAY,
  void: EntryKind.VOID,
  adjust: EntryKind.ADJUST,
} as const;

const numberOf = Object.fromEntries(
  outcomes.map((outcome, number) => [outcome, number]),
) as Readonly<Record<Outcome, number>>;

/** The bytes of callora.metering.v1.JournalRow: the fields by their numbers in proto/callora/metering/v1/journal.proto. */
export function writeRow(entries: readonly Entry[]): Buffer {
  const texts = createIndex<string>((text) => text);
  const prices = createIndex<Pinned>(priceKey);
  for (const entry of entries) {
    texts.add(entry.account);
    texts.add(entry.source);
    if ("price" in entry) {
      texts.add(entry.endpoint);
      prices.add(entry.price);
    }
  }
  for (const { apiId, developerId } of prices.values()) {
    texts.add(apiId);
    texts.add(developerId);
  }
  const writer = createProtoWriter(entries.length * 128 + 512);
  for (const text of texts.values()) {
    writer.item(1, text);
  }
  for (const price of prices.values()) {
    writer.message(2, () => {
      writer.uint(1, texts.add(price.apiId));
      writer.uint(2, texts.add(price.developerId));
      writer.uint(3, price.version);
      writer.big(4, price.unitNanos);
      writer.uint(5, price.feeBasisPoints);
      writer.text(6, price.rule);
    });
  }
  for (const entry of entries) {
    writer.message(3, () => writeEntry(writer, entry, { texts, prices }));
  }
  return writer.finish();
}

function priceKey(price: Pinned): string {
  const { apiId, developerId, version, unitNanos, feeBasisPoints, rule } = price;
  return `${apiId} ${developerId} ${version} ${unitNanos} ${feeBasisPoints} ${rule}`;
}

/** Values, each once, and where in their list they are. */
interface Index<T> {
  /** The place of a value, which is there from now on. */
  add(value: T): number;
  values(): readonly T[];
}

function createIndex<T>(keyOf: (value: T) => string): Index<T> {
  const places = new Map<string, number>();
  // Values that follow each other are often the same one, whose key need not be made again.
  const known = new Map<T, number>();
  const values: T[] = [];
  return {
    add(value) {
      const same = known.get(value);
      if (same !== undefined) {
        return same;
      }
      const key = keyOf(value);
      let place = places.get(key);
      if (place === undefined) {
        place = values.length;
        places.set(key, place);
        values.push(value);
      }
      known.set(value, place);
      return place;
    },
    values: () => values,
  };
}

function writeEntry(
  writer: ProtoWriter,
  entry: Entry,
  { texts, prices }: { texts: Index<string>; prices: Index<Pinned> },
): void {
  writer.uint(1, kinds[entry.kind]);
  writer.uint(2, texts.add(entry.account));
  writer.uint(3, texts.add(entry.source));
  writer.text(4, entry.id);
  if ("correctionId" in entry) {
    writer.text(17, entry.correctionId);
    writer.big(18, entry.adjustedNanos);
    writer.text(21, entry.reason);
    return;
  }
  writer.uint(5, prices.add(entry.price));
  writer.uint(6, texts.add(entry.endpoint));
  writer.uint(7, entry.status);
  writer.fixed64(8, entry.timeMicros);
  writer.bool(9, entry.timeUnset);
  writer.bool(10, entry.mode === "test");
  writer.text(11, entry.data);
  writer.big(12, entry.units);
  writer.big(13, entry.chargedNanos);
  writer.text(14, entry.lease ?? "");
  writer.text(15, entry.keyId ?? "");
  writer.text(16, entry.requestId);
  writer.big(19, entry.replays?.position ?? 0n);
  writer.uint(20, entry.replays?.ordinal ?? 0);
  writer.uint(22, numberOf[entry.outcome]);
  writer.big(23, entry.unitsBefore);
}
