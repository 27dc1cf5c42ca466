import assert from "node:assert";

/** Written by hand, bytes of Protobuf take a fraction of the time that a message object and its reflection take. */
export interface ProtoWriter {
  /** A number from zero, up to 2^53. Nothing for zero, which is the default. */
  uint(field: number, value: number): void;
  /** A number from zero, as int64 and uint64 have it. Nothing for zero. */
  big(field: number, value: bigint): void;
  /** Nothing for zero. */
  fixed64(field: number, value: bigint): void;
  bool(field: number, value: boolean): void;
  /** Nothing for an empty text. */
  text(field: number, value: string): void;
  /** A text of a list, which may be empty. */
  item(field: number, value: string): void;
  /** A message within the message: what `write` writes. */
  message(field: number, write: () => void): void;
  /** All that was written. */
  finish(): Buffer;
}

const lengthDelimited = 2;
const fixed = 1;
/** Most bytes of a varint. */
const varintBytesMax = 10;
/** Most characters of a text that is written one by one. Its length takes one byte. */
const shortMax = 64;

/** Make a writer of one message. */
export function createProtoWriter(bytesGuess = 4_096): ProtoWriter {
  let bytes = Buffer.allocUnsafe(bytesGuess);
  let at = 0;

  function reserve(count: number) {
    if (at + count > bytes.length) {
      const grown = Buffer.allocUnsafe(Math.max(bytes.length * 2, at + count));
      bytes.copy(grown, 0, 0, at);
      bytes = grown;
    }
  }

  function varint(value: number) {
    let rest = value;
    while (rest > 0x7fff_ffff) {
      bytes[at++] = (rest % 128) | 0x80;
      rest = Math.floor(rest / 128);
    }
    while (rest > 0x7f) {
      bytes[at++] = (rest & 0x7f) | 0x80;
      rest >>>= 7;
    }
    bytes[at++] = rest;
  }

  function bigVarint(value: bigint) {
    let rest = value;
    while (rest > 0x7fn) {
      bytes[at++] = Number(rest & 0x7fn) | 0x80;
      rest >>= 7n;
    }
    bytes[at++] = Number(rest);
  }

  /** Write a short text of ASCII, as most are, without leaving JavaScript. False: it is another one. */
  function shortAscii(value: string): boolean {
    const size = value.length;
    if (size > shortMax) {
      return false;
    }
    for (let index = 0; index < size; index++) {
      const code = value.charCodeAt(index);
      if (code > 0x7f) {
        return false;
      }
      bytes[at + 1 + index] = code;
    }
    bytes[at] = size;
    at += 1 + size;
    return true;
  }

  function item(field: number, value: string) {
    reserve(2 * varintBytesMax + shortMax);
    varint((field << 3) | lengthDelimited);
    if (shortAscii(value)) {
      return;
    }
    const size = Buffer.byteLength(value);
    reserve(varintBytesMax + size);
    varint(size);
    at += bytes.write(value, at);
  }

  return {
    uint(field, value) {
      assert(Number.isSafeInteger(value) && value >= 0);
      if (value > 0) {
        reserve(2 * varintBytesMax);
        varint(field << 3);
        varint(value);
      }
    },
    big(field, value) {
      assert(value >= 0n && value < 1n << 64n);
      if (value > 0n) {
        reserve(2 * varintBytesMax);
        varint(field << 3);
        if (value <= Number.MAX_SAFE_INTEGER) {
          varint(Number(value));
        } else {
          bigVarint(value);
        }
      }
    },
    fixed64(field, value) {
      if (value > 0n) {
        reserve(varintBytesMax + 8);
        varint((field << 3) | fixed);
        at = bytes.writeBigUInt64LE(value, at);
      }
    },
    bool(field, value) {
      if (value) {
        reserve(varintBytesMax + 1);
        varint(field << 3);
        bytes[at++] = 1;
      }
    },
    text(field, value) {
      if (value !== "") {
        item(field, value);
      }
    },
    item,
    message(field, write) {
      reserve(2 * varintBytesMax);
      varint((field << 3) | lengthDelimited);
      const start = at;
      // Most are short: the length takes one byte, and what takes more is moved.
      at += 1;
      write();
      const size = at - start - 1;
      if (size > 0x7f) {
        const more = size > 0x3fff ? (size > 0x1f_ffff ? 3 : 2) : 1;
        assert(size <= 0xfff_ffff);
        reserve(more);
        bytes.copyWithin(start + 1 + more, start + 1, at);
        at = start;
        varint(size);
        at += size;
      } else {
        bytes[start] = size;
      }
    },
    finish: () => bytes.subarray(0, at),
  };
}

/** Thrown by a reader at what it does not read, which may be Protobuf nevertheless. */
export class UnusualBytesError extends Error {
  override readonly name = "UnusualBytesError";
}

/** Reads what a ProtoWriter writes. Every method throws UnusualBytesError at anything else. */
export interface ProtoReader {
  /** Where the next byte is. */
  readonly at: number;
  /** The next field's number, and its wire type in the low three bits. */
  tag(): number;
  /** A number up to 2^32 - 1. */
  uint32(): number;
  /** A number up to 2^31 - 1. */
  int32(): number;
  /** A number up to 2^53 - 1. */
  big(): bigint;
  fixed64(): bigint;
  bool(): boolean;
  text(): string;
  /** Where the next message ends, which begins now. */
  messageEnd(): number;
}

/** The tag of a field that is a varint. */
export function varintTag(field: number): number {
  return field << 3;
}

/** The tag of a field that is a text or a message. */
export function lengthTag(field: number): number {
  return (field << 3) | lengthDelimited;
}

/** The tag of a field of eight bytes. */
export function fixedTag(field: number): number {
  return (field << 3) | fixed;
}

/** Make a reader of a message's bytes. */
export function createProtoReader(bytes: Buffer): ProtoReader {
  let at = 0;

  function varint(max: number): number {
    let value = 0;
    let scale = 1;
    for (let index = 0; index < 8; index++) {
      const byte = bytes[at++];
      if (byte === undefined) {
        break;
      }
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) {
        if (value > max) {
          break;
        }
        return value;
      }
      scale *= 128;
    }
    throw new UnusualBytesError();
  }

  function end(): number {
    const size = varint(0x7fff_ffff);
    if (at + size > bytes.length) {
      throw new UnusualBytesError();
    }
    return at + size;
  }

  return {
    get at() {
      return at;
    },
    tag: () => varint(0xffff_ffff),
    uint32: () => varint(0xffff_ffff),
    int32: () => varint(0x7fff_ffff),
    big: () => BigInt(varint(Number.MAX_SAFE_INTEGER)),
    fixed64() {
      if (at + 8 > bytes.length) {
        throw new UnusualBytesError();
      }
      at += 8;
      return bytes.readBigUInt64LE(at - 8);
    },
    bool: () => varint(1) === 1,
    text() {
      const last = end();
      const value = bytes.toString("utf8", at, last);
      at = last;
      // What is no UTF-8 becomes this character, which may also stand for itself.
      if (value.includes("\ufffd")) {
        throw new UnusualBytesError();
      }
      return value;
    },
    messageEnd: end,
  };
}
