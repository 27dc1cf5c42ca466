import pg from "pg";

/** How long partitions are kept, and made ahead. */
export interface PartitionOptions {
  /** The owner's. */
  url: string;
  /** Months, before the present one, whose events are kept. */
  keepMonths: number;
  now: Date;
}

/** What was done to the partitions of events. */
export interface PartitionChanges {
  /** How many were made. */
  made: number;
  /** The months whose events were removed, by first day. */
  dropped: string[];
  /** Why older months are still there. Empty when none has to go. */
  kept: string;
}

const monthsAhead = 12;
/** At once. The rest goes the next day. */
const droppedMax = 12;

/**
 * Make the partitions of a year ahead, and remove the events of months that are over long since.
 *
 * Only the owner of the tables may. What removed events came to is kept, in the transaction that removes them. Nothing
 * is removed that is not in an archive of the journal, whose rows there are still kept beside it, or that a meter is
 * still being built from. Whoever does it at the same time waits; nobody who records or reads usage waits for longer
 * than two seconds.
 */
export async function maintainPartitions(options: PartitionOptions): Promise<PartitionChanges> {
  const client = new pg.Client({
    connectionString: options.url,
    connectionTimeoutMillis: 5_000,
    statement_timeout: 600_000,
    lock_timeout: 2_000,
    application_name: "callora partitions",
  });
  client.on("error", () => {});
  await client.connect();
  try {
    const made = await transaction(client, () => addPartitions(client, options.now));
    const dropped: string[] = [];
    for (const month of await listOldMonths(client, options)) {
      const kept = await transaction(client, () => dropMonth(client, month));
      if (kept !== "") {
        return { made, dropped, kept: `${month}: ${kept}` };
      }
      dropped.push(month);
    }
    return { made, dropped, kept: "" };
  } finally {
    await client.end();
  }
}

/** One process at a time: the lock goes with the transaction. */
async function transaction<T>(client: pg.Client, work: () => Promise<T>): Promise<T> {
  await client.query("begin");
  try {
    await client.query("set local lock_timeout = '60s'");
    await client.query("select pg_advisory_xact_lock(hashtext('callora partitions'))");
    await client.query("set local lock_timeout = '2s'");
    const value = await work();
    await client.query("commit");
    return value;
  } catch (error) {
    await client.query("rollback");
    throw error;
  }
}

async function addPartitions(client: pg.Client, now: Date): Promise<number> {
  const { rows } = await client.query<{ made: number }>(
    "select callora_add_partitions(($1::timestamptz + $2 * interval '1 month')::date) as made",
    [now.toISOString(), monthsAhead],
  );
  return rows[0]?.made ?? 0;
}

/** The months of partitions that are older than what is kept, the oldest first. */
async function listOldMonths(
  client: pg.Client,
  { keepMonths, now }: PartitionOptions,
): Promise<string[]> {
  const { rows } = await client.query<{ month: string }>(
    `select month::text from (
       select to_date(right(relname, 6), 'YYYYMM') as month from pg_class
       where relnamespace = 'callora_parts'::regnamespace and relname ~ '^usage_events_[0-9]{6}$'
     ) as part
     where month < date_trunc('month', $1::timestamptz at time zone 'UTC') - $2 * interval '1 month'
     order by month limit $3`,
    [now.toISOString(), keepMonths, droppedMax],
  );
  return rows.map(({ month }) => month);
}

/** Remove a month's events and keep what they came to. Returns why not, or nothing. */
async function dropMonth(client: pg.Client, month: string): Promise<string> {
  const part = `callora_parts.usage_events_${month.slice(0, 7).replace("-", "")}`;
  // Asks the table: a name is looked up in what the session remembers, and another process may have been faster.
  const found = await client.query(
    "select from pg_class where relnamespace = 'callora_parts'::regnamespace and relname = $1",
    [part.split(".")[1]],
  );
  if (found.rowCount === 0) {
    return "";
  }
  // Nothing is inserted into a month that is over, so its sums may be read before anybody is kept waiting.
  const totals = await client.query(
    `select mode, count(*) as events, sum(charged_nanos) as charged, sum(fee_nanos) as fee,
       max(position) as last
     from ${part} group by mode`,
  );
  // First, as everybody locks it before what is beside it: those who read events and then ask about meters must not be
  // met the other way round. Who waits for more after that gives up before the database looks for a ring.
  await client.query("lock table only usage_events in access exclusive mode");
  await client.query("set local lock_timeout = '500ms'");
  // Policies hold for the owner, too. Undone in the same transaction: nobody sees the tables without.
  await force(client, "no force");
  const last = totals.rows.reduce(
    (max, row) => (BigInt(row.last) > max ? BigInt(row.last) : max),
    0n,
  );
  const { rows } = await client.query(
    `select $1::int8 > (select coalesce(max(last_position), 0) from journal_archives) as is_alone,
       exists (
         select from journal_archives where first_position <= $1 and trimmed_at is null
       ) as is_journaled,
       exists (select from meters where state = 'building') as is_read,
       exists (select from meter_recounts where bucket < $2::date + interval '1 month 1 day')
         as is_counted`,
    [last.toString(), month],
  );
  const reason = whyKept(rows[0]);
  if (reason === "") {
    for (const { mode, events, charged, fee, last: position } of totals.rows) {
      await client.query(
        `insert into usage_partition_totals as kept (
           received_month, mode, events, charged_nanos, fee_nanos, last_position
         )
         values ($1, $2, $3, $4, $5, $6)
         on conflict (received_month, mode) do update set
           events = kept.events + excluded.events,
           charged_nanos = kept.charged_nanos + excluded.charged_nanos,
           fee_nanos = kept.fee_nanos + excluded.fee_nanos,
           last_position = greatest(kept.last_position, excluded.last_position)`,
        [month, mode, events, charged, fee, position],
      );
    }
    await client.query(`drop table ${part}`);
  }
  await force(client, "force");
  return reason;
}

function whyKept(
  month: Record<"is_alone" | "is_journaled" | "is_read" | "is_counted", boolean>,
): string {
  if (month.is_alone) {
    return "not all of its events are in an archive of the journal";
  }
  // What the journal says is held against them.
  if (month.is_journaled) {
    return "rows of the journal that its events are from are still there";
  }
  if (month.is_read) {
    return "a meter is being built";
  }
  return month.is_counted ? "a meter counts anew" : "";
}

async function force(client: pg.Client, word: "force" | "no force"): Promise<void> {
  for (const table of ["usage_partition_totals", "journal_archives", "meters", "meter_recounts"]) {
    await client.query(`alter table ${table} ${word} row level security`);
  }
}
