import { type DescField, type DescMessage, type Message, ScalarType } from "@bufbuild/protobuf";
import { INT32_MAX, INT32_MIN, UINT32_MAX, WireType } from "@bufbuild/protobuf/wire";
import { isWrapperDesc } from "@bufbuild/protobuf/wkt";
import { isPlain } from "../plain-message.ts";
import { wireTypeOf } from "./wire-type.ts";

/** Return the binary form of a message behind `head` bytes to be filled in. Undefined: this is for toBinary(). */
export type WriteBinary = (message: Message, head: number) => Buffer | undefined;

/**
 * Prepare to write messages of a type. The bytes are those of toBinary(), but written to the same memory
 * each time and with room for the head of a frame: what toBinary() allocates is most of what it costs. What
 * is rare, large, or wrong is left to it.
 */
export function compileBinaryWriter(desc: DescMessage): WriteBinary {
  const write = messageWriter(new Map(), desc);
  // Most methods of a server are never called.
  let page: Page | undefined;
  return (message, head) => {
    page ??= new Page();
    page.at = head;
    try {
      write(page, message);
    } catch (error) {
      if (error === rare) {
        return undefined;
      }
      throw error;
    }
    const bytes = Buffer.allocUnsafe(page.at);
    page.bytes.copy(bytes, 0, 0, page.at);
    return bytes;
  };
}

/** No more, so that lengths within a page take at most two bytes. */
const pageBytes = 16 * 1024;

/** Made once, since its stack says nothing. */
const rare = new Error("Cannot write it here: it is left to toBinary()");

/** The memory that messages are written to, and how far it is. */
class Page {
  readonly bytes = Buffer.alloc(pageBytes);
  at = 0;

  /** Throws when so many bytes do not fit any more. */
  reserve(size: number): void {
    if (this.at + size > pageBytes) {
      throw rare;
    }
  }

  varint(value: number): void {
    this.reserve(5);
    let rest = value;
    while (rest > 0x7f) {
      this.bytes[this.at++] = (rest & 0x7f) | 0x80;
      rest >>>= 7;
    }
    this.bytes[this.at++] = rest;
  }

  /** The two halves of 64 bits, each without a sign. */
  varint64(low: number, high: number): void {
    this.reserve(10);
    let [rest, above] = [low, high];
    while (above > 0 || rest > 0x7f) {
      this.bytes[this.at++] = (rest & 0x7f) | 0x80;
      rest = ((rest >>> 7) | (above << 25)) >>> 0;
      above >>>= 7;
    }
    this.bytes[this.at++] = rest;
  }

  text(value: string): void {
    // So short that its length takes one byte however its characters are written.
    if (3 * value.length < 0x80) {
      this.reserve(0x80);
      this.bytes[this.at] = this.bytes.write(value, this.at + 1);
      this.at += 1 + (this.bytes[this.at] ?? 0);
      return;
    }
    const size = Buffer.byteLength(value);
    this.varint(size);
    this.reserve(size);
    this.at += this.bytes.write(value, this.at);
  }

  raw(value: Uint8Array): void {
    this.reserve(value.length + 5);
    this.varint(value.length);
    this.bytes.set(value, this.at);
    this.at += value.length;
  }

  double(value: number): void {
    this.reserve(8);
    this.at = this.bytes.writeDoubleLE(value, this.at);
  }

  /** What `write` writes, behind its length. */
  delimited(write: Write, value: unknown): void {
    this.reserve(5);
    const start = this.at;
    this.at += 1;
    write(this, value);
    const size = this.at - start - 1;
    if (size > 0x7f) {
      this.reserve(1);
      this.bytes.copyWithin(start + 2, start + 1, this.at);
      this.at = start;
      this.varint(size);
      this.at += size;
    } else {
      this.bytes[start] = size;
    }
  }
}

/** Writes to the end. Throws `rare` for what is left to toBinary(). */
type Write = (page: Page, value: unknown) => void;

type Fields = Readonly<Record<string, unknown>>;

const leave: Write = () => {
  throw rare;
};

const implicitPresence = 2;

/** Of types that contain themselves there is one writer each. */
function messageWriter(writers: Map<DescMessage, Write>, desc: DescMessage): Write {
  const known = writers.get(desc);
  if (known !== undefined) {
    return known;
  }
  const members: Write[] = [];
  const write: Write = (page, value) => {
    const message = value as Message;
    if (message.$typeName !== desc.typeName || message.$unknown !== undefined) {
      throw rare;
    }
    for (const member of members) {
      member(page, message);
    }
  };
  const chosen = isPlain(desc) ? write : leave;
  writers.set(desc, chosen);
  for (const field of desc.fields.toSorted((a, b) => a.number - b.number)) {
    members.push(memberWriter(writers, field));
  }
  return chosen;
}

/** Writes a field of a message, if it is set. */
function memberWriter(writers: Map<DescMessage, Write>, field: DescField): Write {
  const { localName: name, oneof } = field;
  const write = fieldWriter(writers, field);
  if (oneof !== undefined) {
    const group = oneof.localName;
    return (page, message) => {
      const chosen = (message as Fields)[group] as {
        readonly case?: string;
        readonly value: unknown;
      };
      if (chosen.case === name) {
        write(page, chosen.value);
      }
    };
  }
  const isUnset = unsetTest(field);
  return (page, message) => {
    const value = (message as Fields)[name];
    if (!isUnset(value)) {
      write(page, value);
    }
  };
}

function unsetTest(field: DescField): (value: unknown) => boolean {
  if (field.fieldKind === "list") {
    return (value) => (value as readonly unknown[]).length === 0;
  }
  if (field.fieldKind === "map") {
    return (value) => Object.keys(value as Fields).length === 0;
  }
  if (field.presence !== implicitPresence) {
    return (value) => value === undefined;
  }
  if (field.fieldKind === "enum") {
    const zero = field.enum.values[0]?.number;
    return (value) => value === zero;
  }
  switch (field.scalar) {
    case ScalarType.STRING:
      return (value) => value === "";
    case ScalarType.BOOL:
      return (value) => value === false;
    case ScalarType.BYTES:
      return (value) => (value as Uint8Array).length === 0;
    case ScalarType.DOUBLE:
    case ScalarType.FLOAT:
      // Minus zero is not the default of a field.
      return (value) => Object.is(value, 0);
    default:
      return (value) => value === 0 || value === 0n || value === "0";
  }
}

function fieldWriter(writers: Map<DescMessage, Write>, field: DescField): Write {
  if (field.fieldKind === "map") {
    return leave;
  }
  if (field.message !== undefined) {
    return childWriter(writers, field);
  }
  const scalar = field.enum === undefined ? field.scalar : ScalarType.INT32;
  const write = scalarWriter(scalar);
  const tag = tagOf(field.number, wireTypeOf(scalar));
  const one: Write = (page, value) => {
    page.varint(tag);
    write(page, value);
  };
  if (field.fieldKind !== "list") {
    return one;
  }
  return field.packed ? packedWriter(field.number, write) : listWriter(one);
}

function childWriter(
  writers: Map<DescMessage, Write>,
  field: Exclude<DescField, { fieldKind: "map" }> & { message: DescMessage },
): Write {
  const { message, number } = field;
  // A field holds their values in a form of its own.
  const isUnwrapped = isWrapperDesc(message) || message.typeName === "google.protobuf.Struct";
  if (isUnwrapped || field.delimitedEncoding) {
    return leave;
  }
  const write = messageWriter(writers, message);
  const tag = tagOf(number, WireType.LengthDelimited);
  const one: Write = (page, value) => {
    page.varint(tag);
    page.delimited(write, value);
  };
  return field.fieldKind === "list" ? listWriter(one) : one;
}

function listWriter(write: Write): Write {
  return (page, items) => {
    for (const item of items as readonly unknown[]) {
      write(page, item);
    }
  };
}

function packedWriter(number: number, write: Write): Write {
  const tag = tagOf(number, WireType.LengthDelimited);
  const all = listWriter(write);
  return (page, items) => {
    page.varint(tag);
    page.delimited(all, items);
  };
}

function tagOf(number: number, type: WireType): number {
  return ((number << 3) | type) >>> 0;
}

function scalarWriter(type: ScalarType): Write {
  switch (type) {
    case ScalarType.STRING:
      return (page, value) => page.text(typeof value === "string" ? value : refuse());
    case ScalarType.BOOL:
      return (page, value) => page.varint(typeof value === "boolean" ? Number(value) : refuse());
    case ScalarType.BYTES:
      return (page, value) => page.raw(value instanceof Uint8Array ? value : refuse());
    case ScalarType.DOUBLE:
      return (page, value) => page.double(typeof value === "number" ? value : refuse());
    case ScalarType.INT32:
      return writeInt32;
    case ScalarType.UINT32:
      return (page, value) => page.varint(wholeBetween(0, value, UINT32_MAX));
    case ScalarType.INT64:
      return (page, value) => {
        const isOne = typeof value === "bigint" && BigInt.asIntN(64, value) === value;
        writeInt64(page, isOne ? value : refuse());
      };
    case ScalarType.UINT64:
      return (page, value) => {
        const isOne = typeof value === "bigint" && BigInt.asUintN(64, value) === value;
        writeInt64(page, isOne ? value : refuse());
      };
    default:
      return leave;
  }
}

function writeInt32(page: Page, value: unknown): void {
  const whole = wholeBetween(INT32_MIN, value, INT32_MAX);
  if (whole < 0) {
    page.varint64(whole >>> 0, UINT32_MAX);
  } else {
    page.varint(whole);
  }
}

function writeInt64(page: Page, value: bigint): void {
  const low = Number(BigInt.asUintN(32, value));
  page.varint64(low, Number(BigInt.asUintN(32, value >> 32n)));
}

function wholeBetween(min: number, value: unknown, max: number): number {
  return Number.isInteger(value) && (value as number) >= min && (value as number) <= max
    ? (value as number)
    : refuse();
}

function refuse(): never {
  throw rare;
}
