import { randomFillSync } from "node:crypto";

const idBytes = 16;
const idsAtOnce = 256;

/**
 * Make random UUIDs (version 4). As crypto.randomUUID(), but each is one string from the start: that
 * one is put together from twenty pieces, all of which have to be collected.
 */
export function createIds(): () => string {
  const random = Buffer.alloc(idBytes * idsAtOnce);
  const text = Buffer.alloc(36, "-");
  let next = random.length;

  return () => {
    if (next === random.length) {
      randomFillSync(random);
      next = 0;
    }
    random[next + 6] = ((random[next + 6] ?? 0) & 0x0f) | 0x40;
    random[next + 8] = ((random[next + 8] ?? 0) & 0x3f) | 0x80;
    let at = 0;
    for (let index = 0; index < idBytes; index++) {
      const byte = random[next + index] as number;
      text[at++] = digits[byte >> 4] as number;
      text[at++] = digits[byte & 0x0f] as number;
      if (index === 3 || index === 5 || index === 7 || index === 9) {
        at++;
      }
    }
    next += idBytes;
    return text.toString("latin1");
  };
}

const digits = Buffer.from("0123456789abcdef");
