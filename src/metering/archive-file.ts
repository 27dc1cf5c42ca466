import { createHash, randomUUID } from "node:crypto";
import { mkdir, open, readFile, rename } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { gunzip, gzip } from "node:zlib";

/** A row of the journal, as an archive keeps it. */
export interface ArchivedRow {
  position: bigint;
  shard: number;
  codec: number;
  /** Microseconds since 1970. */
  appendedMicros: bigint;
  entries: number;
  body: Buffer;
}

/** Before the rows: what the file is. */
const magic = Buffer.from("callora journal 1\n");
const headBytes = 30;

/**
 * The bytes of an archive: a line, then for each row its position and its time (8 bytes), shard, entries and the
 * length of its body (4), codec (2), all with the highest byte first, and the body.
 */
export function encodeArchive(rows: readonly ArchivedRow[]): Buffer {
  const parts = rows.flatMap((row) => {
    const head = Buffer.alloc(headBytes);
    head.writeBigInt64BE(row.position, 0);
    head.writeBigInt64BE(row.appendedMicros, 8);
    head.writeInt32BE(row.shard, 16);
    head.writeInt32BE(row.entries, 20);
    head.writeInt32BE(row.body.length, 24);
    head.writeInt16BE(row.codec, 28);
    return [head, row.body];
  });
  return Buffer.concat([magic, ...parts]);
}

/** The rows of an archive. Throws when it is not one, or is cut off. */
export function decodeArchive(bytes: Buffer): ArchivedRow[] {
  if (!bytes.subarray(0, magic.length).equals(magic)) {
    throw new Error("Cannot read the archive: it does not begin as one");
  }
  const rows: ArchivedRow[] = [];
  let at = magic.length;
  while (at < bytes.length) {
    const bodyAt = at + headBytes;
    const length = bodyAt <= bytes.length ? bytes.readInt32BE(at + 24) : 0;
    if (length < 0 || bodyAt + length > bytes.length) {
      throw new Error("Cannot read the archive: it is cut off");
    }
    rows.push({
      position: bytes.readBigInt64BE(at),
      appendedMicros: bytes.readBigInt64BE(at + 8),
      shard: bytes.readInt32BE(at + 16),
      entries: bytes.readInt32BE(at + 20),
      codec: bytes.readInt16BE(at + 28),
      body: bytes.subarray(bodyAt, bodyAt + length),
    });
    at = bodyAt + length;
  }
  return rows;
}

/** A file that is there for good. */
export interface WrittenFile {
  file: string;
  bytes: number;
  sha256: Buffer;
}

/**
 * Write rows to a file so that a crash leaves it whole or not at all, and read it back.
 *
 * Its name tells what is in it: two libraries may pack the same rows in two ways, and neither takes the place of the
 * other's file. Throws when what is read is not what was written.
 */
export async function writeArchive(
  directory: string,
  name: string,
  rows: readonly ArchivedRow[],
): Promise<WrittenFile> {
  const plain = encodeArchive(rows);
  const packed = await promisify(gzip)(plain);
  const sha256 = createHash("sha256").update(packed).digest();
  const fileName = `${name}-${sha256.toString("hex").slice(0, 16)}.bin.gz`;
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const path = join(directory, fileName);
  // Whoever writes the same file at the same time has another name until then.
  const own = `${path}.${randomUUID()}.new`;
  const file = await open(own, "w", 0o600);
  try {
    await file.writeFile(packed);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(own, path);
  const folder = await open(directory, "r");
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
  const read = await readFile(path);
  if (!read.equals(packed) || !(await promisify(gunzip)(read)).equals(plain)) {
    throw new Error(`Cannot rely on ${path}: it does not hold what was written`);
  }
  return { file: fileName, bytes: read.length, sha256 };
}

/** The rows of a file. Throws when it has another hash. */
export async function readArchive(
  directory: string,
  name: string,
  sha256: Buffer,
): Promise<ArchivedRow[]> {
  const read = await readFile(join(directory, name));
  if (!createHash("sha256").update(read).digest().equals(sha256)) {
    throw new Error(`Cannot read ${name}: it is not the file that was archived`);
  }
  return decodeArchive(await promisify(gunzip)(read));
}
