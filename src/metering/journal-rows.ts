import { sql } from "slonik";
import { z } from "zod";
import type { Tx } from "../db/pool.ts";
import { beginTurn, inTurns, type Turn } from "../lib/turns.ts";
import type { PlacedCorrection } from "./applied-event.ts";
import { decodeRow, type Malformed } from "./codec.ts";
import { type Candidate, toCandidate } from "./decide.ts";
import { type Entry, monthOf } from "./entry.ts";
import type { Quarantined } from "./quarantine.ts";

/** Rows, and their bytes, that are read at once. */
const rowsMax = 5_000;
const bytesMax = 16 * 1024 * 1024;

/** A row of the journal. */
export interface JournalRow {
  position: bigint;
  codec: number;
  body: Buffer;
  receivedAt: Date;
}

/** What is next in a shard. */
export interface Next {
  /** What is applied. */
  cursor: bigint;
  /** What is durable. */
  head: bigint;
  /** The first position that a draining lease of the shard waits for. Null when none is draining. */
  fence: bigint | null;
  rows: JournalRow[];
  /** Whether no row up to the head is missing. */
  isWhole: boolean;
}

const nextRow = z.object({
  cursor: z.bigint(),
  head: z.bigint(),
  fence: z.bigint().nullable(),
  position: z.bigint().nullable(),
  codec: z.number().nullable(),
  body: z.instanceof(Buffer).nullable(),
  appended_at: z.number().nullable(),
  entries_to: z.bigint().nullable(),
  bytes_to: z.bigint().nullable(),
});

/**
 * Read a shard's next rows, up to the row that makes so many entries.
 *
 * It is one statement, of one snapshot: every row up to its head is in it, and the end of a lease is seen before the
 * rows that the lease did not pay for.
 */
export async function readNext(tx: Tx, shard: number, entriesMax: number): Promise<Next> {
  const found = await tx.any(sql.prepared("read_next_rows", nextRow)`
    select cursor.position as cursor, head.position as head,
      (
        select min(fence) from credit_leases where shard = ${shard} and state = 'draining'
      ) as fence,
      row.position, row.codec, row.body, row.appended_at, row.entries_to, row.bytes_to
    from projector_cursors as cursor
    cross join journal_head as head
    left join lateral (
      select next.*, sum(greatest(entries, 1)) over upto as entries_to,
        sum(octet_length(body)) over upto as bytes_to
      from (
        select position, codec, body, appended_at, entries from usage_journal
        where shard = ${shard} and position > cursor.position
        order by position limit ${rowsMax}
      ) as next
      window upto as (order by position rows unbounded preceding)
    ) as row
      on row.entries_to - greatest(row.entries, 1) < ${entriesMax}
        and row.bytes_to - octet_length(row.body) < ${bytesMax}
    where cursor.shard = ${shard}
    order by row.position
  `);
  const rows = found.flatMap(({ position, codec, body, appended_at }) =>
    position === null || codec === null || body === null || appended_at === null
      ? []
      : [{ position, codec, body, receivedAt: new Date(appended_at) }],
  );
  const { cursor = 0n, head = 0n, fence = null } = found[0] ?? {};
  const { entries_to, bytes_to } = found.at(-1) ?? {};
  const isWhole =
    rows.length < rowsMax && (entries_to ?? 0n) < entriesMax && (bytes_to ?? 0n) < bytesMax;
  return { cursor, head, fence, rows, isWhole };
}

/** What is in rows. */
export interface ReadRow {
  position: bigint;
  usage: Candidate[];
  corrections: PlacedCorrection[];
  malformed: Quarantined[];
}

/** Read the entries of rows. What cannot be read never stops the rest. */
export async function readEntries(shard: number, rows: readonly JournalRow[]): Promise<ReadRow[]> {
  const read: ReadRow[] = [];
  const turn = beginTurn();
  for (const row of rows) {
    read.push(await readRow(shard, row, turn));
  }
  return read;
}

async function readRow(
  shard: number,
  { position, codec, body, receivedAt }: JournalRow,
  turn: Turn,
): Promise<ReadRow> {
  const read: ReadRow = { position, usage: [], corrections: [], malformed: [] };
  const receivedMonth = monthOf(BigInt(receivedAt.getTime()) * 1_000n);
  const visit = (entry: Entry | Malformed, ordinal: number) => {
    const place = { position, ordinal };
    if (entry.kind === "malformed") {
      const { raw, detail } = entry;
      const none = { shard, place, accountId: "", mode: "live", chargedNanos: 0n } as const;
      read.malformed.push({ ...none, reason: "MALFORMED", detail, raw });
    } else if ("correctionId" in entry) {
      read.corrections.push({ place, entry });
    } else {
      read.usage.push(toCandidate({ entry, place, receivedAt, receivedMonth }));
    }
  };
  await inTurns(decode({ codec, body }), visit, turn);
  return read;
}

/** A row that cannot even be refused entry by entry must not stop its shard either. */
function decode(row: { codec: number; body: Buffer }): (Entry | Malformed)[] {
  try {
    return decodeRow(row).entries;
  } catch {
    return [{ kind: "malformed", raw: row.body, detail: "the row cannot be read" }];
  }
}
