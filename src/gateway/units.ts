import { freeBits, type Outcome, type PriceRule, type UnitSource } from "../catalog/price-rule.ts";
import { compilePath, findValue, type JsonPath } from "../lib/json-path.ts";
import { Bytes } from "./bytes.ts";

/** Reads the number of units out of an upstream's reply. */
export interface UnitReader {
  /** A part of the reply's body, in its order. */
  data(chunk: Buffer): void;
  /** Null: the reply said nothing. Known once the whole body was read; until then what was said so far. */
  readonly units: bigint | null;
}

/** Most units of a call, whatever its reply says: the journal holds no more. */
const unitsMax = 1_000_000_000_000n;
/** Most bytes of a JSON reply, and of one event of a stream, that units are looked for in. */
const jsonBytesMax = 256 * 1024;
const eventBytesMax = 64 * 1024;

/**
 * Make the reader for a reply whose headers are there. It never throws: what cannot be read says nothing. Compressed
 * bodies are not read: upstreams are asked for plain ones.
 */
export function createUnitReader(
  source: UnitSource,
  reply: { header(name: string): string | undefined },
): UnitReader {
  if ("header" in source) {
    return { data: () => {}, units: unitsOfText(reply.header(source.header)?.trim()) };
  }
  const path = compilePath(source.path);
  const encoding = reply.header("content-encoding") ?? "identity";
  if (path === null || encoding.trim().toLowerCase() !== "identity") {
    return { data: () => {}, units: null };
  }
  const isStream = /^\s*text\/event-stream\s*(?:;|$)/i.test(reply.header("content-type") ?? "");
  return isStream ? new EventsReader(path) : new JsonReader(path);
}

/** What of a call counts, and how it ended when nothing does. */
export function usedUnits(
  rule: Pick<PriceRule, "source" | "free">,
  counted: bigint | null,
  outcome: Outcome,
): { units: bigint; outcome: Outcome } {
  if (rule.source === null) {
    return { units: 1n, outcome };
  }
  const units = counted ?? rule.source.missing;
  if (units > 0n) {
    return { units, outcome };
  }
  // The journal reads no units as one. A call that is free by how it ended stays so.
  const isNamed =
    outcome === "failed" ||
    (outcome === "timed_out" && (rule.free & freeBits.timeout) !== 0) ||
    (outcome === "consumer_left" && (rule.free & freeBits.consumerLeft) !== 0);
  return { units: 1n, outcome: isNamed ? outcome : "no_units" };
}

/** A whole number from zero, as a header or a text says it. Null: it is none. */
function unitsOfText(text: string | undefined): bigint | null {
  return text !== undefined && /^\d{1,20}$/.test(text) ? bounded(BigInt(text)) : null;
}

function bounded(units: bigint): bigint {
  return units < unitsMax ? units : unitsMax;
}

/** The number of units at a path of JSON. Null: there is none. */
function unitsIn(json: string, path: JsonPath): bigint | null {
  let value: unknown;
  try {
    value = findValue(JSON.parse(json), path);
  } catch {
    return null;
  }
  if (typeof value === "string") {
    return unitsOfText(value);
  }
  if (typeof value !== "number" || !Number.isInteger(value) || value < 0) {
    return null;
  }
  return bounded(BigInt(value));
}

/** Reads a body that is one JSON value. */
class JsonReader implements UnitReader {
  readonly #path: JsonPath;
  readonly #body = new Bytes();
  #isLong = false;
  /** Undefined: not asked yet. */
  #units: bigint | null | undefined;

  constructor(path: JsonPath) {
    this.#path = path;
  }

  data(chunk: Buffer): void {
    this.#units = undefined;
    this.#isLong ||= this.#body.length + chunk.length > jsonBytesMax;
    if (this.#isLong) {
      this.#body.clear();
    } else {
      this.#body.add(chunk);
    }
  }

  get units(): bigint | null {
    if (this.#units === undefined) {
      this.#units = this.#isLong ? null : unitsIn(this.#body.all.toString(), this.#path);
    }
    return this.#units;
  }
}

const newline = 0x0a;
const carriageReturn = 0x0d;

/**
 * Reads a stream of events (`text/event-stream`): the last one that has the value counts.
 *
 * Lines end with LF, CR or both, which may come in two chunks; an event ends with an empty line. The last one counts
 * without: some servers leave the empty line out, and consumers leave in its midst.
 */
class EventsReader implements UnitReader {
  readonly #path: JsonPath;
  /** Bytes that an event with the value has, to parse no others. Undefined: any may have it. */
  readonly #mark: Buffer | undefined;
  #units: bigint | null = null;
  /** The line so far, and the lines of `data` of the event so far, each with its end. */
  readonly #line = new Bytes();
  #lineBytes = 0;
  readonly #event = new Bytes();
  #eventBytes = 0;
  #isAfterCarriageReturn = false;
  /** Whether the first line is over, before which a byte order mark may stand. */
  #isBegun = false;

  constructor(path: JsonPath) {
    this.#path = path;
    const name = path.findLast((step) => typeof step === "string");
    // Others may be written with escapes.
    this.#mark = name !== undefined && /^\w+$/.test(name) ? Buffer.from(name) : undefined;
  }

  data(chunk: Buffer): void {
    let from = 0;
    if (this.#isAfterCarriageReturn && chunk.length > 0) {
      this.#isAfterCarriageReturn = false;
      from = chunk[0] === newline ? 1 : 0;
    }
    while (from < chunk.length) {
      const end = lineEnd(chunk, from);
      this.#keep(chunk.subarray(from, end));
      if (end === chunk.length) {
        return;
      }
      this.#endLine();
      from = end + 1;
      if (chunk[end] === carriageReturn) {
        if (from === chunk.length) {
          this.#isAfterCarriageReturn = true;
        } else if (chunk[from] === newline) {
          from += 1;
        }
      }
    }
  }

  get units(): bigint | null {
    const isLong = this.#lineBytes > eventBytesMax;
    const line = isLong ? null : this.#dataOf(this.#line.all);
    const rest = new Bytes();
    rest.add(this.#event.all);
    if (line !== null) {
      rest.add(line);
    }
    return this.#unitsOf(rest.all, this.#eventBytes + (line?.length ?? 0)) ?? this.#units;
  }

  /** Of a line that is too long to matter only the length is kept. */
  #keep(part: Buffer): void {
    if (part.length === 0) {
      return;
    }
    this.#lineBytes += part.length;
    if (this.#lineBytes <= eventBytesMax) {
      // A copy: the chunk that it lies in may be large.
      this.#line.add(Buffer.from(part));
    } else {
      this.#line.clear();
    }
  }

  #endLine(): void {
    const bytes = this.#lineBytes;
    if (bytes === 0) {
      this.#endEvent();
      return;
    }
    const isLong = bytes > eventBytesMax;
    const data = isLong ? null : this.#dataOf(this.#line.all);
    // Of a long line nobody knows what it was: the event is passed by.
    this.#eventBytes += isLong ? bytes : data === null ? 0 : data.length + 1;
    if (this.#eventBytes > eventBytesMax) {
      this.#event.clear();
    } else if (data !== null) {
      this.#event.add(Buffer.from(data));
      this.#event.add(lineFeed);
    }
    this.#line.clear();
    this.#lineBytes = 0;
    this.#isBegun = true;
  }

  #endEvent(): void {
    if (this.#eventBytes > 0) {
      this.#units = this.#unitsOf(this.#event.all, this.#eventBytes) ?? this.#units;
      this.#event.clear();
      this.#eventBytes = 0;
    }
  }

  #dataOf(line: Buffer): Buffer | null {
    return dataOf(this.#isBegun ? line : withoutMark(line));
  }

  #unitsOf(event: Buffer, bytes: number): bigint | null {
    const isMarked = this.#mark === undefined || event.includes(this.#mark);
    if (event.length === 0 || bytes > eventBytesMax || !isMarked) {
      return null;
    }
    return unitsIn(event.toString(), this.#path);
  }
}

const lineFeed = Buffer.from([newline]);

/** Where a line ends, or the chunk. Byte by byte: to search for either end of many short lines takes longer. */
function lineEnd(chunk: Buffer, from: number): number {
  let at = from;
  while (at < chunk.length && chunk[at] !== newline && chunk[at] !== carriageReturn) {
    at += 1;
  }
  return at;
}

const byteOrderMark = Buffer.from([0xef, 0xbb, 0xbf]);

function withoutMark(line: Buffer): Buffer {
  return line.subarray(0, 3).equals(byteOrderMark) ? line.subarray(3) : line;
}

const dataField = Buffer.from("data:");

/** What a line says in the field `data`. Null: it is another field, or a comment. */
function dataOf(line: Buffer): Buffer | null {
  if (!line.subarray(0, dataField.length).equals(dataField)) {
    return null;
  }
  return line.subarray(line[dataField.length] === 0x20 ? dataField.length + 1 : dataField.length);
}
