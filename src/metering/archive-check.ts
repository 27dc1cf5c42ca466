import type { Database } from "../db/database.ts";
import { readArchive } from "./archive-file.ts";
import { type ArchiveRow, listArchives } from "./archive-store.ts";

/** What was found of the archives of the journal. */
export interface ArchiveCheck {
  /** How many files are what was archived. */
  files: number;
  /** The first file that is not, and why. Null: all are. */
  problem: string | null;
}

/** Files that are looked up at once. */
const pageSize = 100;

/** Read the files of a directory that hold what was removed from the journal, and tell whether all of it is there. */
export async function checkArchives({
  db,
  directory,
}: {
  db: Pick<Database, "systemTransaction">;
  directory: string;
}): Promise<ArchiveCheck> {
  let files = 0;
  let last = 0n;
  for (;;) {
    const page = await db.systemTransaction((tx) => listArchives(tx, last, pageSize));
    for (const archive of page) {
      const problem =
        archive.first_position === last + 1n
          ? await findProblem(directory, archive)
          : `${archive.file} does not begin at position ${last + 1n}`;
      if (problem !== null) {
        return { files, problem };
      }
      files += 1;
      last = archive.last_position;
    }
    if (page.length < pageSize) {
      return { files, problem: null };
    }
  }
}

async function findProblem(directory: string, archive: ArchiveRow): Promise<string | null> {
  const { file, sha256, first_position: first, last_position: last } = archive;
  try {
    const rows = await readArchive(directory, file, sha256);
    const isWhole =
      BigInt(rows.length) === last - first + 1n &&
      rows.every(({ position }, index) => position === first + BigInt(index));
    return isWhole ? null : `${file} does not hold positions ${first} to ${last}`;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}
