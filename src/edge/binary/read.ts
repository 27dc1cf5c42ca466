import { isAscii, isUtf8 } from "node:buffer";
import { type DescField, type DescMessage, type Message, ScalarType } from "@bufbuild/protobuf";
import { WireType } from "@bufbuild/protobuf/wire";
import { isWrapperDesc } from "@bufbuild/protobuf/wkt";
import { isPlain, maker } from "../plain-message.ts";
import { wireTypeOf } from "./wire-type.ts";

/** Make a message from its binary form. Undefined: fromBinary() shall read it, or say what is wrong. */
export type ReadBinary = (bytes: Buffer) => Message | undefined;

/**
 * Prepare to read messages of a type, as nearly all clients write them: of known fields, each once unless
 * it is a list, and of the types below. All else is left to fromBinary().
 */
export function compileBinaryReader(desc: DescMessage): ReadBinary {
  const read = messageReader(new Map(), desc);
  return (bytes) => {
    const message = read(new Cursor(bytes), bytes.length);
    return message === odd ? undefined : (message as Message);
  };
}

/** What a reader returns that leaves the whole message to fromBinary(). */
const odd = Symbol("odd");

/** Reads a value that may not go beyond `end`. */
type Read = (cursor: Cursor, end: number) => unknown;

/** Sets a field. Returns whether that went well. */
type ReadField = (message: Fields, cursor: Cursor, end: number) => boolean;

type Fields = Record<string, unknown>;

/** Messages within messages. */
const depthMax = 16;

/** A place in a message. */
class Cursor {
  readonly bytes: Buffer;
  readonly isAscii: boolean;
  at = 0;
  depth = 0;

  constructor(bytes: Buffer) {
    this.bytes = bytes;
    this.isAscii = isAscii(bytes);
  }

  /** A number of at most 49 bits. NaN if there is none. */
  varint(end: number): number {
    const { bytes } = this;
    const first = bytes[this.at] ?? 0x80;
    if (first < 0x80 && this.at < end) {
      this.at += 1;
      return first;
    }
    let [value, scale] = [0, 1];
    const last = Math.min(end, this.at + 7);
    while (this.at < last) {
      const byte = bytes[this.at++] ?? 0;
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) {
        return value;
      }
      scale *= 0x80;
    }
    return Number.NaN;
  }

  /** Where something ends that its length comes before. NaN if that is beyond `end`. */
  delimited(end: number): number {
    const last = this.varint(end) + this.at;
    return last <= end ? last : Number.NaN;
  }
}

function messageReader(readers: Map<DescMessage, Read>, desc: DescMessage): Read {
  const known = readers.get(desc);
  if (known !== undefined) {
    return known;
  }
  /** By tag. */
  const members = new Map<number, ReadField>();
  const make = maker(desc);
  const read: Read = (cursor, end) => {
    if (++cursor.depth > depthMax) {
      return odd;
    }
    const message = make();
    while (cursor.at < end) {
      const member = members.get(cursor.varint(end));
      if (member === undefined || !member(message, cursor, end)) {
        return odd;
      }
    }
    cursor.depth--;
    return message;
  };
  const chosen = isPlain(desc) ? read : leave;
  readers.set(desc, chosen);
  for (const field of desc.fields) {
    addMembers(readers, members, field);
  }
  return chosen;
}

const leave: Read = () => odd;

function addMembers(
  readers: Map<DescMessage, Read>,
  members: Map<number, ReadField>,
  field: DescField,
): void {
  const value = valueReader(readers, field);
  if (value === undefined) {
    return;
  }
  const { read, type } = value;
  const tag = field.number * 8;
  if (field.fieldKind === "list") {
    members.set(tag + type, itemReader(field.localName, read));
    if (type !== WireType.LengthDelimited) {
      members.set(tag + WireType.LengthDelimited, packedReader(field.localName, read));
    }
  } else if (field.oneof === undefined) {
    members.set(tag + type, fieldReader(field, read));
  } else {
    members.set(tag + type, choiceReader(field.oneof.localName, field, read));
  }
}

function fieldReader({ localName: name, message: isMessage }: DescField, read: Read): ReadField {
  return (message, cursor, end) => {
    // One that is there already is to be merged with this one.
    const value = isMessage !== undefined && message[name] !== undefined ? odd : read(cursor, end);
    message[name] = value;
    return value !== odd;
  };
}

function choiceReader(
  group: string,
  { localName: name, message: isMessage }: DescField,
  read: Read,
): ReadField {
  return (message, cursor, end) => {
    const chosen = message[group] as { readonly case?: string };
    const value = isMessage !== undefined && chosen.case === name ? odd : read(cursor, end);
    message[group] = { case: name, value };
    return value !== odd;
  };
}

function itemReader(name: string, read: Read): ReadField {
  return (message, cursor, end) => {
    const value = read(cursor, end);
    (message[name] as unknown[]).push(value);
    return value !== odd;
  };
}

function packedReader(name: string, read: Read): ReadField {
  return (message, cursor, end) => {
    const last = cursor.delimited(end);
    const items = message[name] as unknown[];
    while (cursor.at < last) {
      const value = read(cursor, last);
      if (value === odd) {
        return false;
      }
      items.push(value);
    }
    return cursor.at === last;
  };
}

/** Undefined for types that are left to fromBinary(). */
function valueReader(
  readers: Map<DescMessage, Read>,
  field: DescField,
): { read: Read; type: WireType } | undefined {
  if (field.fieldKind === "map") {
    return undefined;
  }
  if (field.message !== undefined) {
    // A field holds their values in a form of its own.
    const { typeName } = field.message;
    const isUnwrapped = isWrapperDesc(field.message) || typeName === "google.protobuf.Struct";
    return isUnwrapped || field.delimitedEncoding
      ? undefined
      : {
          read: childReader(messageReader(readers, field.message)),
          type: WireType.LengthDelimited,
        };
  }
  if (field.enum !== undefined) {
    return field.enum.open ? { read: readInt32, type: WireType.Varint } : undefined;
  }
  const isText = "longAsString" in field && field.longAsString;
  const read = isText ? undefined : scalarReader(field.scalar);
  return read && { read, type: wireTypeOf(field.scalar) };
}

function childReader(read: Read): Read {
  return (cursor, end) => {
    const last = cursor.delimited(end);
    return Number.isNaN(last) ? odd : read(cursor, last);
  };
}

function scalarReader(type: ScalarType): Read | undefined {
  switch (type) {
    case ScalarType.STRING:
      return readText;
    case ScalarType.BYTES:
      return readBytes;
    case ScalarType.BOOL:
      return readBool;
    case ScalarType.INT32:
      return readInt32;
    case ScalarType.UINT32:
      return readUint32;
    case ScalarType.INT64:
    case ScalarType.UINT64:
      return readLong;
    case ScalarType.DOUBLE:
      return readDouble;
    default:
      return undefined;
  }
}

function readText(cursor: Cursor, end: number): unknown {
  const { bytes } = cursor;
  const last = cursor.delimited(end);
  const start = cursor.at;
  if (Number.isNaN(last)) {
    return odd;
  }
  cursor.at = last;
  if (cursor.isAscii) {
    return bytes.toString("latin1", start, last);
  }
  return isUtf8(bytes.subarray(start, last)) ? bytes.toString("utf8", start, last) : odd;
}

function readBytes(cursor: Cursor, end: number): unknown {
  const last = cursor.delimited(end);
  if (Number.isNaN(last)) {
    return odd;
  }
  const value = cursor.bytes.subarray(cursor.at, last);
  cursor.at = last;
  return value;
}

function readBool(cursor: Cursor, end: number): unknown {
  const value = cursor.varint(end);
  return value <= 1 ? value === 1 : odd;
}

// Those below zero have ten bytes.
function readInt32(cursor: Cursor, end: number): unknown {
  const value = cursor.varint(end);
  return value < 2 ** 31 ? value : odd;
}

function readUint32(cursor: Cursor, end: number): unknown {
  const value = cursor.varint(end);
  return value < 2 ** 32 ? value : odd;
}

function readLong(cursor: Cursor, end: number): unknown {
  const value = cursor.varint(end);
  return Number.isNaN(value) ? odd : BigInt(value);
}

function readDouble(cursor: Cursor, end: number): unknown {
  const start = cursor.at;
  cursor.at += 8;
  return cursor.at <= end ? cursor.bytes.readDoubleLE(start) : odd;
}
