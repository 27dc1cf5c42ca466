import { createHash, randomBytes } from "node:crypto";
import { crc32 } from "node:zlib";

/** Whether calls made with a key move real money. */
export type Mode = "live" | "test";

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const randomLength = 43;
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
  const body = `ck_${mode}_${randomText()}`;
  const plain = body + checksum(body);
  return { plain, prefix: plain.slice(0, 16), hash: hashSecret(plain) };
}

/** Whether the text has the form and the checksum of a secret. */
export function isWellFormed(text: string): boolean {
  const match = /^(ck_(?:live|test)_[0-9A-Za-z]{43})([0-9A-Za-z]{6})$/.exec(text);
  return match !== null && checksum(match[1] ?? "") === match[2];
}

/** Hash a secret for look-up. It has 256 random bits, so no salt and no slow hash. */
export function hashSecret(plain: string): Buffer {
  return createHash("sha256").update(plain).digest();
}

/** Characters above the largest multiple of 62 are thrown away, so that all are equally likely. */
function randomText(): string {
  let text = "";
  while (text.length < randomLength) {
    for (const byte of randomBytes(randomLength)) {
      if (byte < 248 && text.length < randomLength) {
        text += base62[byte % 62];
      }
    }
  }
  return text;
}

function checksum(body: string): string {
  let rest = crc32(body);
  let text = "";
  for (let i = 0; i < checksumLength; i++) {
    text = base62[rest % 62] + text;
    rest = Math.floor(rest / 62);
  }
  return text;
}
