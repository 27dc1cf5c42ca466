import { staticFields } from "./static-table.ts";

/** A header's value. A list is as many headers. */
export type HeaderValue = string | readonly string[];

/** Headers that hold credentials: no hop may keep them in its tables. */
const credentialHeaders: ReadonlySet<string> = new Set([
  "set-cookie",
  "authorization",
  "proxy-authorization",
]);

/** Of a literal that is not to be kept, and of one that no hop may keep: the first byte, and its bits for an index. */
const notKept = { byte: 0x00, bits: 4 };
const neverKept = { byte: 0x10, bits: 4 };

const nameIndexes = new Map<string, number>();
const statusIndexes = new Map<number, number>();
for (const [at, [name, value]] of staticFields.entries()) {
  if (!nameIndexes.has(name)) {
    nameIndexes.set(name, at + 1);
  }
  if (name === ":status") {
    statusIndexes.set(Number(value), at + 1);
  }
}

/** Bytes of the numbers around a field's texts, at most. */
const fieldOverheadBytes = 12;

/** Says that the encoder's table is empty and stays so. Begins the first header block of a connection. */
export const emptyTable = 0x20;

/** Bytes that the fields take at most. */
export function fieldBytesMax(fields: readonly HeaderValue[]): number {
  let bytes = 2 * fieldOverheadBytes;
  for (let index = 0; index < fields.length; index += 2) {
    const name = fields[index] as string;
    const value = fields[index + 1] as HeaderValue;
    if (typeof value === "string") {
      bytes += name.length + value.length + fieldOverheadBytes;
    } else {
      for (const one of value) {
        bytes += name.length + one.length + fieldOverheadBytes;
      }
    }
  }
  return bytes;
}

/** Write the status of a reply. Returns where it ends. */
export function writeStatus(to: Buffer, at: number, status: number): number {
  const index = statusIndexes.get(status);
  if (index !== undefined) {
    to[at] = 0x80 | index;
    return at + 1;
  }
  return writeField(to, at, ":status", String(status));
}

/**
 * Write fields, names in lower case and values by turns, as literals that are kept in no table: a reply has little that
 * the next one has too, and no state means that a block costs no more than its bytes. Returns where they end.
 */
export function writeFields(to: Buffer, start: number, fields: readonly HeaderValue[]): number {
  let at = start;
  for (let index = 0; index < fields.length; index += 2) {
    const name = fields[index] as string;
    const value = fields[index + 1] as HeaderValue;
    if (typeof value === "string") {
      at = writeField(to, at, name, value);
    } else {
      for (const one of value) {
        at = writeField(to, at, name, one);
      }
    }
  }
  return at;
}

function writeField(to: Buffer, start: number, name: string, value: string): number {
  const { byte, bits } = credentialHeaders.has(name) ? neverKept : notKept;
  const index = nameIndexes.get(name) ?? 0;
  let at = writeInteger(to, start, index, { byte, bits });
  if (index === 0) {
    at = writeText(to, at, name);
  }
  return writeText(to, at, value);
}

function writeText(to: Buffer, start: number, text: string): number {
  const at = text.length < 127 ? start + 1 : writeInteger(to, start, text.length, plainText);
  if (text.length < 127) {
    to[start] = text.length;
  }
  to.write(text, at, "latin1");
  return at + text.length;
}

/** A text without Huffman code: the bits of its length. */
const plainText = { byte: 0x00, bits: 7 };

function writeInteger(
  to: Buffer,
  start: number,
  value: number,
  { byte, bits }: { byte: number; bits: number },
): number {
  const mask = (1 << bits) - 1;
  let at = start;
  if (value < mask) {
    to[at++] = byte | value;
    return at;
  }
  to[at++] = byte | mask;
  let rest = value - mask;
  while (rest >= 0x80) {
    to[at++] = (rest & 0x7f) | 0x80;
    rest >>>= 7;
  }
  to[at++] = rest;
  return at;
}

const valuePattern = /^[\t -~\x80-\xff]*$/;

/** Throws TypeError if a value has what no header may have, such as the end of a line. */
export function assertValues(fields: readonly HeaderValue[]): void {
  for (let index = 0; index < fields.length; index += 2) {
    const value = fields[index + 1] as HeaderValue;
    const isValid =
      typeof value === "string"
        ? valuePattern.test(value)
        : value.every((one) => valuePattern.test(one));
    if (!isValid) {
      throw new TypeError(`Cannot send header "${fields[index]}": its value is malformed`);
    }
  }
}
