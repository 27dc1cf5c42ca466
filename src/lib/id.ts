import { randomBytes } from "node:crypto";

const alphabet = "0123456789abcdefghijklmnopqrstuv";

/** A prefixed id of 26 base32 characters that sort by time: 48 bits of milliseconds, then 80 random bits. */
export function newId(prefix: string, now: Date): string {
  return idOf(prefix, now, BigInt(`0x${randomBytes(10).toString("hex")}`));
}

/** The first id of a millisecond: those of earlier ones sort before it, no other does. */
export function firstId(prefix: string, at: Date): string {
  return idOf(prefix, at, 0n);
}

function idOf(prefix: string, at: Date, random: bigint): string {
  let bits = (BigInt(at.getTime()) << 80n) | random;
  let text = "";
  for (let i = 0; i < 26; i++) {
    text = alphabet[Number(bits & 31n)] + text;
    bits >>= 5n;
  }
  return `${prefix}_${text}`;
}

/** Whether the text is an id with that prefix. */
export function isId(prefix: string, text: string): boolean {
  return text.startsWith(`${prefix}_`) && /^[0-9a-v]{26}$/.test(text.slice(prefix.length + 1));
}
