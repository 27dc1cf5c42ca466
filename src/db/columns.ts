import { type FragmentSqlToken, sql } from "slonik";

/** What a value of each type is here. */
interface Values {
  text: string;
  /** For example `2026-11-01`. */
  date: string;
  int4: number;
  int8: bigint;
  /** Microseconds since 1970. */
  timestamptz: bigint;
  bytea: Buffer;
}

/** A column of a list of things: its type, and what it holds of each. */
export type Column<T> = {
  [K in keyof Values]: { type: K; of(thing: T): Values[K] | null };
}[keyof Values];

/**
 * A list of things as rows, for thousands of them: `unnest` of one array a column.
 *
 * The arrays are written as PostgreSQL sends and receives them: neither side reads numbers, times or quotes out of
 * text, which takes several times as long.
 */
export function unnestColumns<T>(
  things: readonly T[],
  columns: readonly Column<T>[],
): FragmentSqlToken {
  return sql.fragment`unnest(${sql.join(arraysOf(things, columns), sql.fragment`, `)})`;
}

/**
 * The same for many columns: a row is made when it is asked for, while `unnest` of several arrays writes out and reads
 * back all that is in them. It needs an alias, and cannot be numbered.
 */
export function selectColumns<T>(
  things: readonly T[],
  columns: readonly Column<T>[],
): FragmentSqlToken {
  const values = arraysOf(things, columns).map((array) => sql.fragment`unnest(${array})`);
  return sql.fragment`(select ${sql.join(values, sql.fragment`, `)})`;
}

function arraysOf<T>(things: readonly T[], columns: readonly Column<T>[]): FragmentSqlToken[] {
  const writer = createWriter(columns.length * (headBytes + things.length * bytesGuess));
  return columns.map((column) => {
    writeArray(writer, things, column);
    return sql.fragment`${sql.binary(writer.take())}::${sql.identifier([column.type])}[]`;
  });
}

/** The types by the numbers that PostgreSQL knows them by. */
const oids = {
  text: 25,
  date: 1082,
  int4: 23,
  int8: 20,
  timestamptz: 1184,
  bytea: 17,
} satisfies Record<keyof Values, number>;

const headBytes = 20;
/** Of a value with its size. */
const bytesGuess = 20;
const sizeOfNull = -1;

/** An array of one dimension: whether any may be null, the type, how many, each with its size before it. */
function writeArray<T>(writer: Writer, things: readonly T[], column: Column<T>): void {
  writer.int4(things.length === 0 ? 0 : 1);
  writer.int4(1);
  writer.int4(oids[column.type]);
  if (things.length > 0) {
    writer.int4(things.length);
    // The index of the first.
    writer.int4(1);
  }
  writeValues(writer, things, column);
}

type Writer = ReturnType<typeof createWriter>;

function writeValues<T>(writer: Writer, things: readonly T[], { type, of }: Column<T>): void {
  let date = "";
  let days = 0;
  for (const thing of things) {
    const value = of(thing);
    if (value === null) {
      writer.int4(sizeOfNull);
      continue;
    }
    switch (type) {
      case "text":
        writer.text(value as string);
        break;
      case "bytea":
        writer.bytes(value as Buffer);
        break;
      case "int4":
        writer.int4(4);
        writer.int4(value as number);
        break;
      case "date":
        if (value !== date) {
          date = value as string;
          days = daysOf(date);
        }
        writer.int4(4);
        writer.int4(days);
        break;
      case "int8":
        writer.int8(value as bigint);
        break;
      case "timestamptz":
        writer.int8((value as bigint) - epochMicros);
        break;
    }
  }
}

/** PostgreSQL counts from 2000. */
const epochMs = Date.UTC(2000, 0, 1);
const epochMicros = BigInt(epochMs) * 1_000n;
const dayMs = 24 * 60 * 60 * 1_000;

function daysOf(date: string): number {
  return (Date.parse(date) - epochMs) / dayMs;
}

function createWriter(bytesAtFirst: number) {
  let bytes = Buffer.allocUnsafe(bytesAtFirst);
  let view = viewOf(bytes);
  let from = 0;
  let at = 0;
  let lastText = "";
  let lastAt = 0;

  function reserve(count: number) {
    if (at + count > bytes.length) {
      const grown = Buffer.allocUnsafe(Math.max((at - from) * 2, bytes.length, at - from + count));
      bytes.copy(grown, 0, from, at);
      at -= from;
      from = 0;
      bytes = grown;
      view = viewOf(bytes);
      lastText = "";
    }
  }

  return {
    int4(value: number) {
      reserve(4);
      view.setInt32(at, value);
      at += 4;
    },
    /** With its size. */
    int8(value: bigint) {
      reserve(12);
      view.setInt32(at, 8);
      view.setBigInt64(at + 4, value);
      at += 12;
    },
    /** With its size. Neighbours are often the same. */
    text(value: string) {
      // A unit of a string takes up to three bytes.
      reserve(4 + 3 * value.length);
      if (value === lastText && value !== "") {
        at += bytes.copy(bytes, at, lastAt, lastAt + 4 + view.getInt32(lastAt));
        return;
      }
      const size = bytes.write(value, at + 4);
      view.setInt32(at, size);
      lastText = value;
      lastAt = at;
      at += 4 + size;
    },
    /** With their size. */
    bytes(value: Buffer) {
      reserve(4 + value.length);
      view.setInt32(at, value.length);
      at += 4 + value.copy(bytes, at + 4);
    },
    /** What was written since it was taken last. */
    take(): Buffer {
      const taken = bytes.subarray(from, at);
      from = at;
      return taken;
    },
  };
}

function viewOf({ buffer, byteOffset, byteLength }: Buffer): DataView {
  return new DataView(buffer, byteOffset, byteLength);
}
