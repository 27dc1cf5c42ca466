import { errorCodes, Http2Error } from "./codes.ts";
import { decodeHuffman } from "./huffman.ts";
import { staticFields } from "./static-table.ts";

/** Bytes of names and values that the dynamic table may hold, as both sides assume until told otherwise. */
const tableBytesMax = 4_096;

/** What each field counts beyond its name and value (RFC 7541, section 4.1). */
const fieldOverheadBytes = 32;

/** What came of a header block. */
export interface DecodedFields {
  /** Names and values by turns. */
  readonly fields: string[];
  /** There were more than may be read: the fields are not all. */
  readonly isTooLarge: boolean;
}

/** Reads the header blocks of a connection, in their order: each may change what the next ones mean (HPACK, RFC 7541). */
export class HeaderDecoder {
  readonly #listBytesMax: number;
  /** Names and values by turns, the oldest first. */
  readonly #table: string[] = [];
  #tableBytes = 0;
  #tableBytesMax = tableBytesMax;
  #block: Buffer = Buffer.alloc(0);
  #at = 0;

  /** Fields beyond so many bytes, their overhead included, are left out. */
  constructor(listBytesMax: number) {
    this.#listBytesMax = listBytesMax;
  }

  /** Throws Http2Error COMPRESSION_ERROR if the block is not valid. */
  decode(block: Buffer): DecodedFields {
    this.#block = block;
    this.#at = 0;
    const fields: string[] = [];
    let left = this.#listBytesMax;
    let mayResize = true;
    while (this.#at < block.length) {
      const first = block[this.#at] as number;
      let name: string;
      let value: string;
      if (first >= 0x80) {
        const index = this.#integer(7);
        name = this.#name(index);
        value = this.#value(index);
      } else if (first >= 0x40) {
        name = this.#literalName(6);
        value = this.#text();
        this.#add(name, value);
      } else if (first >= 0x20) {
        this.#resize(this.#integer(5), mayResize);
        continue;
      } else {
        name = this.#literalName(4);
        value = this.#text();
      }
      mayResize = false;
      left -= name.length + value.length + fieldOverheadBytes;
      if (left >= 0) {
        fields.push(name, value);
      }
    }
    return { fields, isTooLarge: left < 0 };
  }

  #literalName(prefixBits: number): string {
    const index = this.#integer(prefixBits);
    return index === 0 ? this.#text() : this.#name(index);
  }

  #name(index: number): string {
    const field = staticFields[index - 1];
    return field === undefined ? this.#tableText(index, 0) : field[0];
  }

  #value(index: number): string {
    const field = staticFields[index - 1];
    return field === undefined ? this.#tableText(index, 1) : field[1];
  }

  #tableText(index: number, part: 0 | 1): string {
    const age = index - staticFields.length;
    const text = age > 0 ? this.#table[this.#table.length - 2 * age + part] : undefined;
    if (text === undefined) {
      throw broken("there is no field of an index");
    }
    return text;
  }

  #add(name: string, value: string): void {
    this.#tableBytes += name.length + value.length + fieldOverheadBytes;
    this.#table.push(name, value);
    this.#evict();
  }

  #resize(bytes: number, isAllowed: boolean): void {
    if (!isAllowed || bytes > tableBytesMax) {
      throw broken("the table may not be resized so");
    }
    this.#tableBytesMax = bytes;
    this.#evict();
  }

  #evict(): void {
    let count = 0;
    while (this.#tableBytes > this.#tableBytesMax) {
      const [name = "", value = ""] = [this.#table[count], this.#table[count + 1]];
      this.#tableBytes -= name.length + value.length + fieldOverheadBytes;
      count += 2;
    }
    if (count > 0) {
      this.#table.splice(0, count);
    }
  }

  /** A number whose first bits are the low ones of the next byte. */
  #integer(prefixBits: number): number {
    const block = this.#block;
    const mask = (1 << prefixBits) - 1;
    let value = (block[this.#at++] ?? 0) & mask;
    if (value < mask) {
      return value;
    }
    for (let shift = 0; shift <= 21; shift += 7) {
      const byte = block[this.#at++];
      if (byte === undefined) {
        throw broken("it ends within a number");
      }
      value += (byte & 0x7f) << shift;
      if (byte < 0x80) {
        return value;
      }
    }
    throw broken("a number is too large");
  }

  #text(): string {
    const isHuffman = ((this.#block[this.#at] ?? 0) & 0x80) !== 0;
    if (this.#at >= this.#block.length) {
      throw broken("it ends before a text");
    }
    const length = this.#integer(7);
    const start = this.#at;
    const end = start + length;
    if (end > this.#block.length) {
      throw broken("it ends within a text");
    }
    this.#at = end;
    if (!isHuffman) {
      return this.#block.toString("latin1", start, end);
    }
    const text = decodeHuffman(this.#block, start, end);
    if (text === undefined) {
      throw broken("a text has no valid Huffman code");
    }
    return text;
  }
}

function broken(reason: string): Http2Error {
  return new Http2Error(errorCodes.compressionError, `Cannot read header block: ${reason}`);
}
