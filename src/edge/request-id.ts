import { randomFillSync } from "node:crypto";

const idBytes = 16;
const idChars = 36;
const idsAtOnce = 64;

/**
 * Make random UUIDs (version 4). As crypto.randomUUID(), but many at once, each a part of one text: that
 * one is put together from twenty pieces, all of which have to be collected.
 */
export function createIds(): () => string {
  const random = Buffer.alloc(idBytes * idsAtOnce);
  const text = Buffer.alloc(idChars * idsAtOnce, "-");
  let ids = "";
  let next = 0;

  return () => {
    if (next === ids.length) {
      randomFillSync(random);
      for (let index = 0; index < idsAtOnce; index++) {
        writeId(random, index * idBytes, text, index * idChars);
      }
      ids = text.toString("latin1");
      next = 0;
    }
    next += idChars;
    return ids.slice(next - idChars, next);
  };
}

function writeId(random: Buffer, start: number, text: Buffer, end: number): void {
  random[start + 6] = ((random[start + 6] ?? 0) & 0x0f) | 0x40;
  random[start + 8] = ((random[start + 8] ?? 0) & 0x3f) | 0x80;
  let at = end;
  for (let index = 0; index < idBytes; index++) {
    const byte = random[start + index] as number;
    text[at++] = digits[byte >> 4] as number;
    text[at++] = digits[byte & 0x0f] as number;
    if (index === 3 || index === 5 || index === 7 || index === 9) {
      at++;
    }
  }
}

const digits = Buffer.from("0123456789abcdef");
