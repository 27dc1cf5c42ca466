import { rm } from "node:fs/promises";
import { join } from "node:path";
import type { Database } from "../db/database.ts";
import { type ArchivedRow, writeArchive } from "./archive-file.ts";
import {
  insertArchive,
  isArchiveFile,
  noteTrimmed,
  readArchivable,
  sumApplied,
  trimJournal,
  trimProjections,
} from "./archive-store.ts";
import { decodeRow } from "./codec.ts";
import { identityKey, monthOf } from "./entry.ts";

/** What archiving needs. */
export interface ArchiveDeps {
  db: Database;
  /** Where the files are. All processes of a database share it. */
  directory: string;
  /** Days that rows stay in the database. */
  keepDays: number;
  now: () => Date;
}

const dayMs = 24 * 60 * 60 * 1_000;
/** Rows are archived once they are a day old: retries and corrections come before, and files are large. */
const archiveAfterMs = dayMs;

/**
 * Put the journal's next old rows into a file, and remove from the database what is old and in one. True: there may
 * be more to do at once.
 *
 * The file is on the disk before it is noted, and noted before a row goes: whatever crashes, each row is somewhere. A
 * file that was not noted is written anew.
 */
export async function archiveNext(deps: ArchiveDeps): Promise<boolean> {
  const isArchived = await archiveRows(deps);
  const before = new Date(deps.now().getTime() - deps.keepDays * dayMs);
  const isMore = await deps.db.systemTransaction(async (tx) => {
    const more = await trimJournal(tx, before);
    await trimProjections(tx);
    await noteTrimmed(tx, deps.now());
    return more;
  });
  return isArchived || isMore;
}

async function archiveRows({ db, directory, now }: ArchiveDeps): Promise<boolean> {
  const before = new Date(now().getTime() - archiveAfterMs);
  const rows = await db.systemTransaction((tx) => readArchivable(tx, before));
  const [first, last] = [rows.at(0), rows.at(-1)];
  if (first === undefined || last === undefined) {
    return false;
  }
  const name = `journal-${first.position}-${last.position}`;
  const written = await writeArchive(directory, name, rows);
  const sums = await sumRows(db, rows);
  const archive = {
    first: first.position,
    last: last.position,
    ...written,
    entries: rows.reduce((sum, { entries }) => sum + entries, 0),
    ...sums,
    now: now(),
  };
  const isNoted = await db.systemTransaction((tx) => insertArchive(tx, archive));
  if (!isNoted) {
    // Another process was faster. Its file may be the same one.
    const isUsed = await db.systemTransaction((tx) => isArchiveFile(tx, written.file));
    if (!isUsed) {
      await rm(join(directory, written.file), { force: true });
    }
  }
  return true;
}

/** Entries that are looked up at once. */
const lookUpMax = 5_000;

/** What was applied of rows. What is in quarantine, or came again, comes to nothing. */
async function sumRows(
  db: Database,
  rows: readonly ArchivedRow[],
): Promise<{ liveNanos: bigint; testNanos: bigint }> {
  const sums = { liveNanos: 0n, testNanos: 0n };
  let wanted = nothingWanted();
  async function add() {
    const { events, corrections, months } = wanted;
    wanted = nothingWanted();
    const found = await db.systemTransaction((tx) =>
      sumApplied(tx, { events, corrections, months: [...months] }),
    );
    sums.liveNanos += found.liveNanos;
    sums.testNanos += found.testNanos;
  }
  for (const row of rows) {
    wanted.months.add(monthOf(row.appendedMicros));
    const position = row.position.toString();
    for (const [ordinal, entry] of decodeRow(row).entries.entries()) {
      if (entry.kind === "malformed") {
        continue;
      }
      if ("correctionId" in entry) {
        wanted.corrections.push([entry.account, entry.correctionId, position, ordinal]);
      } else {
        const { account, mode, chargedNanos } = entry;
        const key = identityKey(entry.source, entry.id);
        wanted.events.push([account, key, position, ordinal, mode, chargedNanos.toString()]);
      }
    }
    if (wanted.events.length + wanted.corrections.length >= lookUpMax) {
      await add();
    }
  }
  await add();
  return sums;
}

function nothingWanted() {
  return {
    events: [] as (string | number)[][],
    corrections: [] as (string | number)[][],
    months: new Set<string>(),
  };
}
