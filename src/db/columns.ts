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
  return columns.map(
    (column) =>
      sql.fragment`${sql.binary(writeArray(things, column))}::${sql.identifier([column.type])}[]`,
  );
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
const sizeOfNull = -1;

/** The bytes of an array of one dimension: whether any may be null, the type, how many, each with its size before it. */
function writeArray<T>(things: readonly T[], column: Column<T>): Buffer {
  const writer = createWriter(headBytes + things.length * 40);
  writer.int4(things.length === 0 ? 0 : 1);
  writer.int4(1);
  writer.int4(oids[column.type]);
  if (things.length > 0) {
    writer.int4(things.length);
    // The index of the first.
    writer.int4(1);
  }
  writeValues(writer, things, column);
  return writer.finish();
}

type Writer = ReturnType<typeof createWriter>;

function writeValues<T>(writer: Writer, things: readonly T[], { type, of }: Column<T>): void {
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
        writer.int4(4);
        writer.int4(daysOf(value as string));
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

function createWriter(bytesGuess: number) {
  let bytes = Buffer.allocUnsafe(bytesGuess);
  let at = 0;

  function reserve(count: number) {
    if (at + count > bytes.length) {
      const grown = Buffer.allocUnsafe(Math.max(bytes.length * 2, at + count));
      bytes.copy(grown, 0, 0, at);
      bytes = grown;
    }
  }

  return {
    int4(value: number) {
      reserve(4);
      at = bytes.writeInt32BE(value, at);
    },
    /** With its size. */
    int8(value: bigint) {
      reserve(12);
      at = bytes.writeInt32BE(8, at);
      at = bytes.writeBigInt64BE(value, at);
    },
    /** With its size. */
    text(value: string) {
      // A unit of a string takes up to three bytes.
      reserve(4 + 3 * value.length);
      const size = bytes.write(value, at + 4);
      bytes.writeInt32BE(size, at);
      at += 4 + size;
    },
    /** With their size. */
    bytes(value: Buffer) {
      reserve(4 + value.length);
      at = bytes.writeInt32BE(value.length, at);
      at += value.copy(bytes, at);
    },
    finish: () => bytes.subarray(0, at),
  };
}
