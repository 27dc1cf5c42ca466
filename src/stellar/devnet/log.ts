import { mkdir, open } from "node:fs/promises";
import { join } from "node:path";
import { crc32 } from "node:zlib";

/** Where a line lies in the file. */
export type Location = { offset: number; length: number };

/** An append-only file of lines that survives a kill at any moment. */
export type Log = {
  /** Write a line and wait until the disk has it. */
  append(text: string): Promise<Location>;
  read(location: Location): Promise<string>;
  close(): Promise<void>;
};

const fileName = "ledger.log";
const chunkBytes = 1 << 20;
const lineBytesMax = 16 << 20;

/**
 * Open the log in a directory, giving each line to `each`. A torn last line is cut off: nobody was
 * told of it. Throws when a line before the last is damaged.
 */
export async function openLog(
  directory: string,
  each: (text: string, location: Location) => void,
): Promise<Log> {
  await mkdir(directory, { recursive: true });
  const file = await open(join(directory, fileName), "a+", 0o600);
  let size: number;
  try {
    size = await readLines(file, each);
    await file.truncate(size);
    await file.sync();
    await syncDirectory(directory);
  } catch (error) {
    await file.close();
    throw error;
  }
  let isBroken = false;

  return {
    async append(text) {
      if (isBroken) throw new Error("Cannot append to ledger log: an earlier write failed");
      const line = Buffer.from(`${checksum(text)} ${text}\n`);
      const location = { offset: size, length: line.length };
      isBroken = true;
      if ((await file.stat()).size !== size) {
        throw new Error("Cannot append to ledger log: another process has written to it");
      }
      try {
        await file.appendFile(line);
        await file.datasync();
      } catch (error) {
        await file.truncate(size);
        await file.datasync();
        isBroken = false;
        throw error;
      }
      isBroken = false;
      size += line.length;
      return location;
    },
    async read({ offset, length }) {
      const line = Buffer.alloc(length);
      await file.read(line, 0, length, offset);
      return parseLine(line.subarray(0, -1), offset);
    },
    close: () => file.close(),
  };
}

type File = Awaited<ReturnType<typeof open>>;

/** Gives the length of the whole lines. */
async function readLines(
  file: File,
  each: (text: string, location: Location) => void,
): Promise<number> {
  const { size } = await file.stat();
  let rest = Buffer.alloc(0);
  let offset = 0;
  for (let position = 0; position < size; ) {
    const chunk = Buffer.alloc(Math.min(chunkBytes, size - position));
    const { bytesRead } = await file.read(chunk, 0, chunk.length, position);
    if (bytesRead === 0) break;
    position += bytesRead;
    rest = Buffer.concat([rest, chunk.subarray(0, bytesRead)]);
    let start = 0;
    for (let end = rest.indexOf(10); end >= 0; end = rest.indexOf(10, start)) {
      const length = end + 1 - start;
      const text = parseOrTorn(rest.subarray(start, end), offset, offset + length === size);
      if (text === null) return offset;
      each(text, { offset, length });
      offset += length;
      start = end + 1;
    }
    rest = rest.subarray(start);
    if (rest.length > lineBytesMax) throw damage(offset);
  }
  return offset;
}

function parseOrTorn(line: Buffer, offset: number, isLast: boolean): string | null {
  try {
    return parseLine(line, offset);
  } catch (error) {
    if (isLast) return null;
    throw error;
  }
}

function parseLine(line: Buffer, offset: number): string {
  const text = line.subarray(9).toString();
  if (line.subarray(0, 9).toString() !== `${checksum(text)} `) throw damage(offset);
  return text;
}

function damage(offset: number): Error {
  return new Error(`Cannot read ledger log: damaged at byte ${offset}`);
}

function checksum(text: string): string {
  return crc32(text).toString(16).padStart(8, "0");
}

async function syncDirectory(directory: string): Promise<void> {
  const handle = await open(directory, "r");
  await handle.sync().finally(() => handle.close());
}
