import { randomFillSync } from "node:crypto";

const idBytes = 10;
const idsAtOnce = 256;
const timeChars = 10;
const idChars = 26;

const digits = Buffer.from("0123456789abcdefghijklmnopqrstuv");
const random = Buffer.alloc(idBytes * idsAtOnce);
const text = Buffer.alloc(idChars);
let next = random.length;

/** A prefixed id of 26 base32 characters that sort by time: 48 bits of milliseconds, then 80 random bits. */
export function newId(prefix: string, now: Date): string {
  // The system is asked for many at once: a call of it costs more than all the rest.
  if (next === random.length) {
    randomFillSync(random);
    next = 0;
  }
  writeTime(now);
  // Five bytes are eight characters.
  for (let at = timeChars; at < idChars; at += 8, next += 5) {
    const high = random.readUInt16BE(next) * 16 + ((random[next + 2] as number) >> 4);
    const low = random.readUIntBE(next + 2, 3) & 0xf_ffff;
    for (let index = 0; index < 4; index++) {
      text[at + index] = digits[(high >> (15 - 5 * index)) & 31] as number;
      text[at + 4 + index] = digits[(low >> (15 - 5 * index)) & 31] as number;
    }
  }
  return `${prefix}_${text.toString("latin1")}`;
}

/** The first id of a millisecond: those of earlier ones sort before it, no other does. */
export function firstId(prefix: string, at: Date): string {
  writeTime(at);
  return `${prefix}_${text.toString("latin1", 0, timeChars).padEnd(idChars, "0")}`;
}

function writeTime(of: Date): void {
  let time = of.getTime();
  for (let at = timeChars - 1; at >= 0; at--) {
    text[at] = digits[time % 32] as number;
    time = Math.floor(time / 32);
  }
}

/** Whether the text is an id with that prefix. */
export function isId(prefix: string, text: string): boolean {
  return text.startsWith(`${prefix}_`) && /^[0-9a-v]{26}$/.test(text.slice(prefix.length + 1));
}
