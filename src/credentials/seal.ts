import assert from "node:assert";
import {
  createCipheriv,
  createDecipheriv,
  createSecretKey,
  hkdfSync,
  type KeyObject,
  randomBytes,
} from "node:crypto";

/** A key that seals. */
export interface SealKey {
  /** At least 1. What is sealed names it. */
  readonly version: number;
  /** 32 bytes. */
  readonly key: Uint8Array;
}

/** Where a sealed text belongs. It opens nowhere else. */
export interface SealContext {
  readonly accountId: string;
  readonly provider: string;
  readonly environment: string;
  readonly id: string;
}

/** Seals texts for the database and opens them. */
export interface Sealer {
  /** The version of the key that seals. */
  readonly primaryVersion: number;
  /** The versions of all keys. Each opens what it sealed. */
  readonly versions: readonly number[];
  seal(plain: Uint8Array, context: SealContext): Buffer;
  /** Throws UnknownKeyError, or TamperedError. */
  open(sealed: Uint8Array, context: SealContext): Buffer;
  /** 32 bytes that only the key of that version can make, and that tell nothing of it. */
  checkValue(version: number): Buffer;
}

/** Thrown when a text was sealed with a key that this process does not have. */
export class UnknownKeyError extends Error {
  override name = "UnknownKeyError";
}

/** Thrown when a text is not what the key sealed for that place: damaged, forged, or moved from elsewhere. */
export class TamperedError extends Error {
  override name = "TamperedError";
}

const formatVersion = 1;
const headerLength = 5;
const nonceLength = 12;
const tagLength = 16;
const keyLength = 32;
const keyVersionMax = 999_999;

/**
 * A sealer with these keys. The first one seals, all of them open.
 *
 * A sealed text is the format (one byte, 1), the key's version (four bytes, big-endian), a random nonce (12 bytes), and
 * the output of AES-256-GCM with its tag (16 bytes). Header and context are authenticated.
 *
 * A key may not seal more than 2^32 texts under random nonces. Here each record has its own, derived from the key and
 * the record's id by HKDF-SHA-256, so the bound is that of the changes of one record and needs no counter.
 */
export function createSealer({ keys }: { keys: readonly SealKey[] }): Sealer {
  const [primary] = keys;
  assert(primary !== undefined, "Cannot seal without a key");
  const byVersion = new Map(keys.map(({ version, key }) => [version, toKeyObject(version, key)]));
  assert.equal(byVersion.size, keys.length, "Cannot have two keys of one version");
  return {
    primaryVersion: primary.version,
    versions: [...byVersion.keys()],

    seal(plain, context) {
      const header = Buffer.alloc(headerLength);
      header.writeUInt8(formatVersion, 0);
      header.writeUInt32BE(primary.version, 1);
      const nonce = randomBytes(nonceLength);
      const key = recordKey(keyOf(byVersion, primary.version), context.id);
      const cipher = createCipheriv("aes-256-gcm", key, nonce, { authTagLength: tagLength });
      cipher.setAAD(authenticated(header, context));
      const body = [cipher.update(plain), cipher.final()];
      return Buffer.concat([header, nonce, ...body, cipher.getAuthTag()]);
    },

    open(sealed, context) {
      const bytes = Buffer.from(sealed.buffer, sealed.byteOffset, sealed.byteLength);
      if (bytes.length < headerLength + nonceLength + tagLength || bytes[0] !== formatVersion) {
        throw new TamperedError("Cannot open a sealed text: it has not the form of one");
      }
      const header = bytes.subarray(0, headerLength);
      const nonce = bytes.subarray(headerLength, headerLength + nonceLength);
      const body = bytes.subarray(headerLength + nonceLength, -tagLength);
      const key = recordKey(keyOf(byVersion, header.readUInt32BE(1)), context.id);
      const decipher = createDecipheriv("aes-256-gcm", key, nonce, { authTagLength: tagLength });
      decipher.setAAD(authenticated(header, context)).setAuthTag(bytes.subarray(-tagLength));
      try {
        return Buffer.concat([decipher.update(body), decipher.final()]);
      } catch {
        throw new TamperedError("Cannot open a sealed text: it is not what was sealed there");
      }
    },

    checkValue: (version) => derive(keyOf(byVersion, version), `callora key check ${version}`),
  };
}

/** A key object does not show its bytes when it is printed. */
function toKeyObject(version: number, key: Uint8Array): KeyObject {
  assert(Number.isInteger(version) && version >= 1 && version <= keyVersionMax);
  assert.equal(key.byteLength, keyLength);
  return createSecretKey(key);
}

function keyOf(keys: ReadonlyMap<number, KeyObject>, version: number): KeyObject {
  const key = keys.get(version);
  if (key === undefined) {
    throw new UnknownKeyError(
      `Cannot open a sealed text: ENCRYPTION_KEYS has no key of version ${version}`,
    );
  }
  return key;
}

function recordKey(key: KeyObject, id: string): Buffer {
  return derive(key, `callora record ${id}`);
}

/** What it is for is the info: a record's key is never another record's, nor a check value. */
function derive(key: KeyObject, info: string): Buffer {
  return Buffer.from(hkdfSync("sha256", key, "", info, keyLength));
}

/** Each part with its length before it: no two contexts make the same bytes. */
function authenticated(header: Buffer, context: SealContext): Buffer {
  const { accountId, provider, environment, id } = context;
  const parts = [accountId, provider, environment, id].flatMap((part) => {
    const bytes = Buffer.from(part, "utf8");
    const length = Buffer.alloc(4);
    length.writeUInt32BE(bytes.length);
    return [length, bytes];
  });
  return Buffer.concat([header, ...parts]);
}
