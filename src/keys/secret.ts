import { createHash, hash, randomBytes } from "node:crypto";
import { crc32 } from "node:zlib";

/** Whether calls made with a key move real money. */
export type Mode = "live" | "test";

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const letters = base62.slice(10);
const checksumLength = 6;

/** A freshly minted secret: the only moment its plain text exists. */
export interface NewSecret {
  plain: string;
  /** Enough to recognise it. */
  prefix: string;
  hash: Buffer;
}

/**
 * Mint a secret: `ck_live_` or `ck_test_`, 43 random base62 characters (256 bits), and a checksum of six.
 *
 * The checksum lets garbage be refused without a look-up, and lets scanners recognise a leak.
 */
export function mintSecret(mode: Mode): NewSecret {
  return mint(`ck_${mode}_`, { alphabet: base62, randomLength: 43, shownLength: 16 });
}

/** Mint the secret of a router key: `ef_`, 58 random letters (330 bits), and a checksum of six letters. */
export function mintRouterSecret(): NewSecret {
  return mint("ef_", { alphabet: letters, randomLength: 58, shownLength: 6 });
}

/** Whether the text has the form and the checksum of a secret. */
export function isWellFormed(text: string): boolean {
  return keySecret.test(text) && hasChecksum(text, base62);
}

const keySecret = /^ck_(?:live|test)_[0-9A-Za-z]{49}$/;

/** Whether the text has the form and the checksum of a router key's secret. */
export function isWellFormedRouter(text: string): boolean {
  return routerSecret.test(text) && hasChecksum(text, letters);
}

const routerSecret = /^ef_[A-Za-z]{64}$/;

/** Whether a text ends with the checksum of what comes before. */
function hasChecksum(text: string, alphabet: string): boolean {
  let rest = crc32(text.slice(0, -checksumLength));
  for (let at = text.length - 1; at >= text.length - checksumLength; at--) {
    if (text.charCodeAt(at) !== alphabet.charCodeAt(rest % alphabet.length)) {
      return false;
    }
    rest = Math.floor(rest / alphabet.length);
  }
  return true;
}

/** Hash a secret for look-up. It has 256 random bits, so no salt and no slow hash. */
export function hashSecret(plain: string): Buffer {
  return createHash("sha256").update(plain).digest();
}

/** The hash of a secret in hexadecimal digits, as it is remembered under. */
export function hexOfSecret(plain: string): string {
  return hash("sha256", plain, "hex");
}

/** Whether two hashes in hexadecimal digits are the same, in a time that does not say where they differ. */
export function isSameHash(one: string, other: string): boolean {
  let difference = one.length ^ other.length;
  for (let at = 0; at < one.length; at++) {
    difference |= one.charCodeAt(at) ^ other.charCodeAt(at);
  }
  return difference === 0;
}

function mint(
  start: string,
  {
    alphabet,
    randomLength,
    shownLength,
  }: { alphabet: string; randomLength: number; shownLength: number },
): NewSecret {
  const body = start + randomText(randomLength, alphabet);
  const plain = body + checksum(body, alphabet);
  return { plain, prefix: plain.slice(0, shownLength), hash: hashSecret(plain) };
}

/** Bytes above the largest multiple of the alphabet are thrown away, so that all characters are equally likely. */
function randomText(length: number, alphabet: string): string {
  const byteMax = 256 - (256 % alphabet.length);
  let text = "";
  while (text.length < length) {
    for (const byte of randomBytes(length)) {
      if (byte < byteMax && text.length < length) {
        text += alphabet[byte % alphabet.length];
      }
    }
  }
  return text;
}

function checksum(body: string, alphabet: string): string {
  let rest = crc32(body);
  let text = "";
  for (let i = 0; i < checksumLength; i++) {
    text = alphabet[rest % alphabet.length] + text;
    rest = Math.floor(rest / alphabet.length);
  }
  return text;
}
