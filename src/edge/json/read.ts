import { isUtf8 } from "node:buffer";
import {
  type DescEnum,
  type DescField,
  type DescMessage,
  type DescOneof,
  type Message,
  ScalarType,
} from "@bufbuild/protobuf";
import { isPlain, maker } from "../plain-message.ts";

/** Make a message from the bytes of a body. Undefined: fromJson() shall read it, or say what is wrong. */
export type ReadJson = (bytes: Uint8Array) => Message | undefined;

/**
 * Prepare to read ProtoJSON of a type, in the form that nearly all clients send: on one line, without
 * escapes in its texts, each field once, and of the types below. It becomes a message without an object
 * of its own in between.
 */
export function compileReader(desc: DescMessage): ReadJson {
  if (!hasPlainJson(desc)) {
    return () => undefined;
  }
  const read = messageReader(new Map(), desc);
  return (bytes) => {
    if (!isUtf8(bytes)) {
      return undefined;
    }
    const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString();
    if (unusual.test(text)) {
      return undefined;
    }
    const cursor = new Cursor(text);
    cursor.skipSpaces();
    const message = read(cursor);
    if (message === odd) {
      return undefined;
    }
    cursor.skipSpaces();
    return cursor.at === text.length ? (message as Message) : undefined;
  };
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: strings must not hold them
const unusual = /[\\\u0000-\u001f]/;

/** What a reader returns that leaves the whole body to fromJson(). */
const odd = Symbol("odd");

type Read = (cursor: Cursor) => unknown;

interface Member {
  readonly read: Read;
  /** The bit of the field, or of the group of which only one field may be there. */
  readonly bit: number;
  readonly name: string;
  readonly group: string | undefined;
}

const bitsMax = 32;
/** Messages within messages. */
const depthMax = 16;

const space = 0x20;
const quote = 0x22;
const comma = 0x2c;
const minus = 0x2d;
const zero = 0x30;
const nine = 0x39;
const colon = 0x3a;
const bracket = 0x5b;
const bracketEnd = 0x5d;
const brace = 0x7b;
const braceEnd = 0x7d;

/** A place in a text. */
class Cursor {
  readonly text: string;
  at = 0;
  depth = 0;

  constructor(text: string) {
    this.text = text;
  }

  peek(): number {
    return this.text.charCodeAt(this.at);
  }

  skipSpaces(): void {
    while (this.text.charCodeAt(this.at) === space) {
      this.at++;
    }
  }

  /** Pass a character and the spaces after it. Returns whether it is there. */
  pass(character: number): boolean {
    if (this.text.charCodeAt(this.at) !== character) {
      return false;
    }
    this.at++;
    this.skipSpaces();
    return true;
  }

  /** The text between quotes. Undefined if there is none. */
  quoted(): string | undefined {
    const { text, at } = this;
    const end = text.charCodeAt(at) === quote ? text.indexOf('"', at + 1) : -1;
    if (end < 0) {
      return undefined;
    }
    this.at = end + 1;
    return text.slice(at + 1, end);
  }

  /** A whole number of at most 15 digits, spelled as JSON wants it. NaN if there is none. */
  whole(): number {
    const { text } = this;
    const isNegative = this.peek() === minus;
    const start = isNegative ? this.at + 1 : this.at;
    let at = start;
    let value = 0;
    for (; ; at++) {
      const character = text.charCodeAt(at);
      if (!(character >= zero && character <= nine)) {
        break;
      }
      value = value * 10 + (character - zero);
    }
    const digits = at - start;
    const isSpelledOtherwise = digits > 1 && text.charCodeAt(start) === zero;
    if (digits === 0 || digits > 15 || isSpelledOtherwise || (isNegative && value === 0)) {
      return Number.NaN;
    }
    this.at = at;
    return isNegative ? -value : value;
  }
}

function messageReader(readers: Map<DescMessage, Read>, desc: DescMessage): Read {
  const known = readers.get(desc);
  if (known !== undefined) {
    return known;
  }
  const members = new Map<string, Member>();
  const make = maker(desc);
  const read: Read = (cursor) => {
    if (!cursor.pass(brace) || ++cursor.depth > depthMax) {
      return odd;
    }
    const message = make();
    let seen = 0;
    if (cursor.peek() !== braceEnd) {
      do {
        const member = members.get(cursor.quoted() ?? "");
        if (member === undefined || (seen & member.bit) !== 0) {
          return odd;
        }
        seen |= member.bit;
        cursor.skipSpaces();
        if (!cursor.pass(colon)) {
          return odd;
        }
        const value = member.read(cursor);
        if (value === odd) {
          return odd;
        }
        if (member.group === undefined) {
          message[member.name] = value;
        } else {
          message[member.group] = { case: member.name, value };
        }
        cursor.skipSpaces();
      } while (cursor.pass(comma));
    }
    cursor.depth--;
    if (cursor.peek() !== braceEnd) {
      return odd;
    }
    cursor.at++;
    return message;
  };
  readers.set(desc, read);
  const bits = new Map<DescField | DescOneof, number>();
  for (const field of desc.fields) {
    const value = fieldReader(readers, field);
    if (value !== undefined) {
      const { localName: name, oneof } = field;
      const alone = oneof ?? field;
      // Of more fields than there are bits two may share one: a message with both is left alone.
      const bit = bits.get(alone) ?? 1 << (bits.size % bitsMax);
      bits.set(alone, bit);
      const member = { read: value, bit, name, group: oneof?.localName };
      members.set(field.name, member).set(field.jsonName, member);
    }
  }
  return read;
}

/** Whether a type has no JSON form of its own. */
function hasPlainJson(desc: DescMessage): boolean {
  return !desc.typeName.startsWith("google.protobuf.") && isPlain(desc);
}

/** Undefined for types that are left to fromJson(). */
function fieldReader(readers: Map<DescMessage, Read>, field: DescField): Read | undefined {
  if (field.fieldKind === "map") {
    return undefined;
  }
  const value = valueReader(readers, field);
  return field.fieldKind === "list" && value !== undefined ? listReader(value) : value;
}

function valueReader(
  readers: Map<DescMessage, Read>,
  field: Exclude<DescField, { fieldKind: "map" }>,
): Read | undefined {
  if (field.message !== undefined) {
    return hasPlainJson(field.message) ? messageReader(readers, field.message) : undefined;
  }
  if (field.enum !== undefined) {
    return enumReader(field.enum);
  }
  const isText = "longAsString" in field && field.longAsString;
  return isText ? undefined : scalarReader(field.scalar);
}

function listReader(read: Read): Read {
  return (cursor) => {
    if (!cursor.pass(bracket)) {
      return odd;
    }
    const items: unknown[] = [];
    if (cursor.peek() !== bracketEnd) {
      do {
        const item = read(cursor);
        if (item === odd) {
          return odd;
        }
        items.push(item);
        cursor.skipSpaces();
      } while (cursor.pass(comma));
    }
    if (cursor.peek() !== bracketEnd) {
      return odd;
    }
    cursor.at++;
    return items;
  };
}

function enumReader(desc: DescEnum): Read | undefined {
  if (desc.typeName === "google.protobuf.NullValue") {
    return undefined;
  }
  const numbers = new Map<string | undefined, number>();
  for (const { jsonName, number } of desc.values) {
    numbers.set(jsonName, number);
  }
  for (const { name, number } of desc.values) {
    numbers.set(name, number);
  }
  return (cursor) => numbers.get(cursor.quoted()) ?? odd;
}

function scalarReader(type: ScalarType): Read | undefined {
  switch (type) {
    case ScalarType.STRING:
      return (cursor) => cursor.quoted() ?? odd;
    case ScalarType.BOOL:
      return readBool;
    case ScalarType.INT32:
    case ScalarType.SINT32:
    case ScalarType.SFIXED32:
      return wholeReader(-(2 ** 31), 2 ** 31 - 1);
    case ScalarType.UINT32:
    case ScalarType.FIXED32:
      return wholeReader(0, 2 ** 32 - 1);
    case ScalarType.INT64:
    case ScalarType.SINT64:
    case ScalarType.SFIXED64:
      return readLong;
    case ScalarType.DOUBLE:
      return readDouble;
    default:
      return undefined;
  }
}

function readBool(cursor: Cursor): unknown {
  const { text, at } = cursor;
  if (text.startsWith("true", at)) {
    cursor.at += 4;
    return true;
  }
  if (text.startsWith("false", at)) {
    cursor.at += 5;
    return false;
  }
  return odd;
}

function wholeReader(min: number, max: number): Read {
  return (cursor) => {
    const value = cursor.whole();
    return value >= min && value <= max ? value : odd;
  };
}

const wholeText = /^-?\d{1,18}$/;

function readLong(cursor: Cursor): unknown {
  if (cursor.peek() === quote) {
    const text = cursor.quoted();
    return text !== undefined && wholeText.test(text) ? BigInt(text) : odd;
  }
  const value = cursor.whole();
  return Number.isNaN(value) ? odd : BigInt(value);
}

const numberText = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;

function readDouble(cursor: Cursor): unknown {
  numberText.lastIndex = cursor.at;
  const text = numberText.exec(cursor.text)?.[0];
  const value = Number(text);
  if (text === undefined || !Number.isFinite(value)) {
    return odd;
  }
  cursor.at += text.length;
  return value;
}
