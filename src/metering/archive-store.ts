import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Tx } from "../db/pool.ts";
import type { ArchivedRow } from "./archive-file.ts";

const archivableRow = z.object({
  position: z.bigint(),
  shard: z.number(),
  codec: z.number(),
  body: z.instanceof(Buffer),
  entries: z.number(),
  appended_micros: z.bigint(),
});

/** Rows, and their bytes, of one file. */
const rowsMax = 20_000;
const bytesMax = 64 * 1024 * 1024;

/**
 * Read the next rows that are applied, older than a time and in no archive: the rows of one file.
 *
 * It ends where all batches of the projectors do, if there is such a place: then what is left of the journal begins
 * with whole ones.
 */
export async function readArchivable(tx: Tx, before: Date): Promise<ArchivedRow[]> {
  const rows = await readOld(tx, before);
  const [first, last] = [rows.at(0), rows.at(-1)];
  if (first === undefined || last === undefined) {
    return [];
  }
  const end = await findEnd(tx, { first: first.position, last: last.position });
  return end === null ? rows : rows.filter(({ position }) => position <= end);
}

const endRow = z.object({ position: z.bigint() });

/** The last position of a range that is within no batch: each that began before has ended. */
async function findEnd(
  tx: Tx,
  { first, last }: { first: bigint; last: bigint },
): Promise<bigint | null> {
  const row = await tx.maybeOne(sql.type(endRow)`
    select position from usage_journal
    where position between ${first} and ${last} and not exists (
      select from projector_cursors as cursor
      cross join lateral (
        select first_position from projections
        where shard = cursor.shard and last_position > usage_journal.position
        order by last_position limit 1
      ) as next
      where next.first_position <= usage_journal.position
    )
    order by position desc limit 1
  `);
  return row?.position ?? null;
}

async function readOld(tx: Tx, before: Date): Promise<ArchivedRow[]> {
  const rows = await tx.any(sql.type(archivableRow)`
    with next as (
      select position, shard, codec, body, entries,
        (extract(epoch from appended_at) * 1000000)::int8 as appended_micros, appended_at
      from usage_journal
      where position > (select coalesce(max(last_position), 0) from journal_archives)
        and position <= (select min(position) from projector_cursors)
      order by position limit ${rowsMax}
    ), measured as (
      select next.*, sum(octet_length(body)) over upto as bytes_to,
        bool_and(appended_at < ${before.toISOString()}) over upto as is_old
      from next window upto as (order by position rows unbounded preceding)
    )
    select position, shard, codec, body, entries, appended_micros from measured
    where is_old and bytes_to - octet_length(body) < ${bytesMax}
    order by position
  `);
  return rows.map(({ appended_micros: appendedMicros, ...row }) => ({ ...row, appendedMicros }));
}

const chargedRow = z.object({ live_nanos: z.bigint(), test_nanos: z.bigint() });

/**
 * What those of some entries came to that are applied: of events by what the journal says, so that it can be held
 * against what is stored of them.
 */
export async function sumApplied(
  tx: Tx,
  {
    events,
    corrections,
    months,
  }: {
    /** Account, key, position, ordinal, mode and charge. */
    events: readonly (readonly (string | number)[])[];
    /** Account, id, position and ordinal. */
    corrections: readonly (readonly (string | number)[])[];
    /** When the journal received them. */
    months: readonly string[];
  },
): Promise<{ liveNanos: bigint; testNanos: bigint }> {
  const row = await tx.one(sql.type(chargedRow)`
    with found as (
      select placed.mode, placed.nanos
      from ${sql.unnest(events, ["text", "text", "int8", "int4", "text", "int8"])}
        as placed (account_id, key, position, ordinal, mode, nanos)
      join usage_events as event using (account_id, key, position, ordinal)
      where event.received_month = any(${sql.array([...months], "date")})
      union all
      select done.mode, done.delta_nanos
      from ${sql.unnest(corrections, ["text", "text", "int8", "int4"])}
        as named (account_id, id, position, ordinal)
      join usage_corrections as done using (account_id, id, position, ordinal)
    )
    select coalesce(sum(nanos) filter (where mode = 'live'), 0)::int8 as live_nanos,
      coalesce(sum(nanos) filter (where mode = 'test'), 0)::int8 as test_nanos
    from found
  `);
  return { liveNanos: row.live_nanos, testNanos: row.test_nanos };
}

/** Note that rows are in a file. False: another process has noted a file that begins there. */
export async function insertArchive(
  tx: Tx,
  archive: {
    first: bigint;
    last: bigint;
    file: string;
    bytes: number;
    sha256: Buffer;
    entries: number;
    liveNanos: bigint;
    testNanos: bigint;
    now: Date;
  },
): Promise<boolean> {
  const result = await tx.query(sql.type(nothing)`
    insert into journal_archives (
      first_position, last_position, file, bytes, sha256, entries, charged_live_nanos,
      charged_test_nanos, checkpoint, created_at
    )
    select ${archive.first}, ${archive.last}, ${archive.file}, ${archive.bytes},
      ${sql.binary(archive.sha256)}, ${archive.entries}, ${archive.liveNanos},
      ${archive.testNanos}, coalesce(jsonb_object_agg(shard, batch), '{}'),
      ${archive.now.toISOString()}
    from (
      select distinct on (shard) shard, jsonb_build_object(
        'position', last_position, 'hash', encode(rating_hash, 'hex')
      ) as batch
      from projections where last_position <= ${archive.last}
      order by shard, last_position desc
    ) as latest
    on conflict do nothing
  `);
  return result.rowCount > 0;
}

const archiveRow = z.object({
  first_position: z.bigint(),
  last_position: z.bigint(),
  file: z.string(),
  sha256: z.instanceof(Buffer),
});

/** A file, and what of the journal is in it. */
export type ArchiveRow = z.infer<typeof archiveRow>;

/** List archives, in the journal's order, of what is after a position. */
export function listArchives(tx: Tx, after: bigint, limit: number): Promise<readonly ArchiveRow[]> {
  return tx.any(sql.type(archiveRow)`
    select first_position, last_position, file, sha256 from journal_archives
    where first_position > ${after} order by first_position limit ${limit}
  `);
}

/** Whether a file is one of the archives. */
export async function isArchiveFile(tx: Tx, file: string): Promise<boolean> {
  const row = await tx.maybeOne(sql.type(nothing)`
    select from journal_archives where file = ${file}
  `);
  return row !== null;
}

/** Rows that are removed by one statement. */
const trimmedMax = 1_000;

/** Remove the oldest rows of archives whose rows are all older than a time. True: there may be more. */
export async function trimJournal(tx: Tx, before: Date): Promise<boolean> {
  const result = await tx.query(sql.type(nothing)`
    delete from usage_journal where position in (
      select position from usage_journal
      where position <= (
        select coalesce(max(last_position), 0) from journal_archives
        where last_position < coalesce(
          (
            select position from usage_journal where appended_at >= ${before.toISOString()}
            order by position limit 1
          ),
          9223372036854775807
        )
      )
      order by position limit ${trimmedMax}
    )
  `);
  return result.rowCount === trimmedMax;
}

/** Remove what is noted of batches whose rows are gone, but the last of each shard: the chain goes on from it. */
export async function trimProjections(tx: Tx): Promise<void> {
  await tx.query(sql.type(nothing)`
    delete from projections where (shard, last_position) in (
      select old.shard, old.last_position from projections as old
      where old.last_position < coalesce(
        (select min(position) from usage_journal), (select position + 1 from journal_head)
      )
      and exists (
        select from projections as newer
        where newer.shard = old.shard and newer.last_position > old.last_position
      )
      order by old.last_position limit ${trimmedMax}
    )
  `);
}

/** Note which archives' rows are gone. */
export async function noteTrimmed(tx: Tx, now: Date): Promise<void> {
  await tx.query(sql.type(nothing)`
    update journal_archives set trimmed_at = ${now.toISOString()}
    where trimmed_at is null and last_position < coalesce(
      (select min(position) from usage_journal), (select position + 1 from journal_head)
    )
  `);
}
