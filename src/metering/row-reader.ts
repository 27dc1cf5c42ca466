import { EntryKind } from "../../gen/callora/metering/v1/journal_pb.ts";
import { isRuleText, outcomes } from "../catalog/price-rule.ts";
import {
  createProtoReader,
  fixedTag,
  lengthTag,
  type ProtoReader,
  UnusualBytesError,
  varintTag,
} from "../lib/proto-bytes.ts";
import type { CorrectionEntry, Entry, Pinned, UsageEntry } from "./entry.ts";
import { entryLimits as limits } from "./row-limits.ts";

/**
 * Read a row as writeRow() writes it, of which every entry makes sense. Undefined: it is another one, which has to be
 * read with more care.
 */
export function readUsualRow(body: Buffer): Entry[] | undefined {
  try {
    return readRow(createProtoReader(body), body.length);
  } catch (error) {
    if (error instanceof UnusualBytesError) {
      return undefined;
    }
    throw error;
  }
}

function readRow(reader: ProtoReader, end: number): Entry[] {
  const texts: string[] = [];
  const prices: Pinned[] = [];
  const entries: Entry[] = [];
  const lists = { texts, prices, isAccount: new Map<number, boolean>() };
  while (reader.at < end) {
    switch (reader.tag()) {
      case lengthTag(1):
        texts.push(reader.text());
        break;
      case lengthTag(2):
        prices.push(readPrice(reader, texts));
        break;
      case lengthTag(3):
        entries.push(readEntry(reader, lists));
        break;
      default:
        throw new UnusualBytesError();
    }
  }
  return entries;
}

function readPrice(reader: ProtoReader, texts: readonly string[]): Pinned {
  const end = reader.messageEnd();
  let api = 0;
  let developer = 0;
  let version = 0;
  let unitNanos = 0n;
  let feeBasisPoints = 0;
  let rule = "";
  while (reader.at < end) {
    switch (reader.tag()) {
      case varintTag(1):
        api = reader.uint32();
        break;
      case varintTag(2):
        developer = reader.uint32();
        break;
      case varintTag(3):
        version = reader.int32();
        break;
      case varintTag(4):
        unitNanos = reader.big();
        break;
      case varintTag(5):
        feeBasisPoints = reader.int32();
        break;
      case lengthTag(6):
        rule = reader.text();
        break;
      default:
        throw new UnusualBytesError();
    }
  }
  const apiId = texts[api] ?? "";
  const developerId = texts[developer] ?? "";
  demand(reader.at === end && limits.apiId.test(apiId) && limits.accountId.test(developerId));
  demand(unitNanos <= limits.nanosMax && feeBasisPoints <= limits.feeBasisPointsMax);
  demand(isText(rule, limits.ruleMax) && isRuleText(rule));
  return { apiId, developerId, version, unitNanos, feeBasisPoints, rule };
}

interface Lists {
  texts: readonly string[];
  prices: readonly Pinned[];
  /** Of the texts that were asked for. */
  isAccount: Map<number, boolean>;
}

/** The fields of an entry as they are written, with their defaults. */
function newFields() {
  return {
    kind: 0,
    account: 0,
    source: 0,
    id: "",
    price: 0,
    endpoint: 0,
    status: 0,
    timeMicros: 0n,
    timeUnset: false,
    test: false,
    data: "",
    units: 0n,
    chargedNanos: 0n,
    lease: "",
    keyId: "",
    requestId: "",
    correctionId: "",
    adjustedNanos: 0n,
    position: 0n,
    ordinal: 0,
    reason: "",
    outcome: 0,
    unitsBefore: 0n,
  };
}

type Fields = ReturnType<typeof newFields>;

function readEntry(reader: ProtoReader, lists: Lists): Entry {
  const end = reader.messageEnd();
  const fields = newFields();
  while (reader.at < end) {
    readField(reader, fields);
  }
  demand(reader.at === end);
  const account = lists.texts[fields.account] ?? "";
  let isAccount = lists.isAccount.get(fields.account);
  if (isAccount === undefined) {
    isAccount = limits.accountId.test(account);
    lists.isAccount.set(fields.account, isAccount);
  }
  const source = lists.texts[fields.source] ?? "";
  demand(isAccount && isText(source, limits.nameMax) && isText(fields.id, limits.nameMax));
  demand(source !== "" && fields.id !== "");
  const { kind } = fields;
  return kind === EntryKind.USAGE || kind === EntryKind.REPLAY
    ? toUsage(fields, { account, source, lists })
    : toCorrection(fields, { account, source });
}

function readField(reader: ProtoReader, fields: Fields): void {
  switch (reader.tag()) {
    case varintTag(1):
      fields.kind = reader.int32();
      break;
    case varintTag(2):
      fields.account = reader.uint32();
      break;
    case varintTag(3):
      fields.source = reader.uint32();
      break;
    case lengthTag(4):
      fields.id = reader.text();
      break;
    case varintTag(5):
      fields.price = reader.uint32();
      break;
    case varintTag(6):
      fields.endpoint = reader.uint32();
      break;
    case varintTag(7):
      fields.status = reader.uint32();
      break;
    case fixedTag(8):
      fields.timeMicros = reader.fixed64();
      break;
    case varintTag(9):
      fields.timeUnset = reader.bool();
      break;
    case varintTag(10):
      fields.test = reader.bool();
      break;
    case lengthTag(11):
      fields.data = reader.text();
      break;
    case varintTag(12):
      fields.units = reader.big();
      break;
    case varintTag(13):
      fields.chargedNanos = reader.big();
      break;
    case lengthTag(14):
      fields.lease = reader.text();
      break;
    case lengthTag(15):
      fields.keyId = reader.text();
      break;
    case lengthTag(16):
      fields.requestId = reader.text();
      break;
    case lengthTag(17):
      fields.correctionId = reader.text();
      break;
    case varintTag(18):
      fields.adjustedNanos = reader.big();
      break;
    case varintTag(19):
      fields.position = reader.big();
      break;
    case varintTag(20):
      fields.ordinal = reader.int32();
      break;
    case lengthTag(21):
      fields.reason = reader.text();
      break;
    case varintTag(22):
      fields.outcome = reader.int32();
      break;
    case varintTag(23):
      fields.unitsBefore = reader.big();
      break;
    default:
      throw new UnusualBytesError();
  }
}

function toUsage(
  fields: Fields,
  { account, source, lists }: { account: string; source: string; lists: Lists },
): UsageEntry {
  const price = lists.prices[fields.price];
  const endpoint = lists.texts[fields.endpoint];
  const { id, data, lease, keyId, requestId, position, ordinal, unitsBefore } = fields;
  const outcome = outcomes[fields.outcome];
  if (price === undefined || endpoint === undefined || outcome === undefined) {
    throw new UnusualBytesError();
  }
  demand(isText(endpoint, limits.endpointMax) && isText(data, limits.dataMax));
  demand(isText(lease, limits.idMax) && isText(keyId, limits.idMax));
  demand(isText(requestId, limits.requestIdMax) && fields.status <= limits.statusMax);
  demand(fields.timeMicros <= limits.timeMicrosMax && fields.units <= limits.unitsMax);
  demand(fields.chargedNanos <= limits.nanosMax && unitsBefore <= limits.unitsMax);
  return {
    kind: fields.kind === EntryKind.USAGE ? "usage" : "replay",
    account,
    source,
    id,
    price,
    endpoint,
    status: fields.status,
    timeMicros: fields.timeMicros,
    timeUnset: fields.timeUnset,
    mode: fields.test ? "test" : "live",
    data,
    units: fields.units,
    chargedNanos: fields.chargedNanos,
    lease: lease === "" ? null : lease,
    keyId: keyId === "" ? null : keyId,
    requestId,
    replays: position === 0n ? null : { position, ordinal },
    outcome,
    unitsBefore,
    keptHash: null,
  };
}

function toCorrection(
  { kind, id, correctionId, adjustedNanos, reason }: Fields,
  { account, source }: { account: string; source: string },
): CorrectionEntry {
  demand(kind === EntryKind.VOID || kind === EntryKind.ADJUST);
  demand(limits.correctionId.test(correctionId) && isText(reason, limits.reasonMax));
  demand(adjustedNanos <= limits.nanosMax);
  const isVoid = kind === EntryKind.VOID;
  return {
    account,
    source,
    id,
    kind: isVoid ? "void" : "adjust",
    correctionId,
    adjustedNanos,
    reason,
  };
}

function isText(text: string, lengthMax: number): boolean {
  return text.length <= lengthMax && !text.includes("\0");
}

function demand(isUsual: boolean): void {
  if (!isUsual) {
    throw new UnusualBytesError();
  }
}
