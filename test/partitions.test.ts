import { randomUUID } from "node:crypto";
import { expect, test } from "vitest";
import { addMonths } from "../src/metering/booked-month.ts";
import { maintainPartitions } from "../src/metering/partitions.ts";
import { until } from "./support/app.ts";
import { newAccountId, openBooks, usage } from "./support/books.ts";

type Books = Awaited<ReturnType<typeof openBooks>>;

async function partitions(books: Books): Promise<string[]> {
  const { rows } = await books.superuser.query(
    `select right(relname, 6) as month from pg_class
     where relnamespace = 'callora_parts'::regnamespace and relname ~ '^usage_events_[0-9]{6}$'
     order by 1`,
  );
  return rows.map(({ month }) => month);
}

/** Events that the journal received some months ago. */
async function age(books: Books, months: number): Promise<string> {
  const { rows } = await books.superuser.query(
    "select date_trunc('month', now())::date::text as m",
  );
  const month = addMonths(rows[0].m, -months);
  await books.superuser.query("update usage_events set received_month = $1", [month]);
  return month;
}

function run(books: Books, now = new Date(), keepMonths = 13) {
  return maintainPartitions({ url: books.urls.owner, keepMonths, now });
}

async function forced(books: Books): Promise<string[]> {
  const { rows } = await books.superuser.query(
    `select relname from pg_class where relforcerowsecurity
     and relname in ('usage_partition_totals', 'journal_archives', 'meters', 'meter_recounts') order by 1`,
  );
  return rows.map(({ relname }) => relname);
}

const policed = ["journal_archives", "meter_recounts", "meters", "usage_partition_totals"];

/** As if the journal's first row were in a file. */
async function archive(books: Books): Promise<void> {
  await books.superuser.query(
    `insert into journal_archives (
       first_position, last_position, file, bytes, sha256, entries, charged_live_nanos,
       charged_test_nanos, checkpoint, trimmed_at
     ) values (1, 1, $1, 1, '', 1, 0, 0, '{}', now())`,
    [randomUUID()],
  );
}

test("partitions are made a year ahead, and take what came before them", async () => {
  await using books = await openBooks();
  const before = await partitions(books);
  await books.journal.append([usage({ account: newAccountId(), developer: newAccountId() })]);
  await books.project();
  // As if no partition had been made for a while: what came is in the one for everything else.
  const month = await age(books, -20);
  const rest = "select count(*) as sum from callora_parts.usage_events_default";
  expect(await books.sum(rest)).toBe(1n);

  const later = new Date(`${month.slice(0, 7)}-15T00:00:00Z`);
  const [first, second] = await Promise.all([run(books, later, 100), run(books, later, 100)]);

  expect(first.made + second.made).toBe(20);
  expect((await partitions(books)).length).toBe(before.length + 20);
  expect(await books.sum(rest)).toBe(0n);
  expect(await books.sum("select count(*) as sum from usage_events")).toBe(1n);
});

test("a month's events go once they are archived, and every total stays", async () => {
  await using books = await openBooks();
  const [account, developer] = [newAccountId(), newAccountId()];
  await books.grant(account, 10_000n);
  await books.journal.append([
    usage({ account, developer, charged: "100", feeBasisPoints: 1_000 }),
    usage({ account, developer, charged: "50", feeBasisPoints: 1_000 }),
  ]);
  await books.project();
  const month = await age(books, 14);
  // A partition for the old month, which the events then go to.
  await run(books);
  await books.journal.append([usage({ account, developer, charged: "7" })]);
  await books.project();
  const totals = `select sum(charged_nanos) from (
    select charged_nanos from usage_events union all select charged_nanos from usage_partition_totals
  ) as kept`;
  const before = await books.sum(totals);

  const refused = await run(books);
  await books.superuser.query(
    `insert into journal_archives (
       first_position, last_position, file, bytes, sha256, entries, charged_live_nanos,
       charged_test_nanos, checkpoint
     ) values (1, 1, 'x', 1, '', 2, 150, 0, '{}')`,
  );
  const journaled = await run(books);
  await books.superuser.query("update journal_archives set trimmed_at = now()");
  await books.superuser.query(
    `insert into meters (account_id, id, slug, aggregation, value_path, side, start_positions)
     values ($1, $2, 'm', 'count', '', 'consumer', '{0,0}')`,
    [account, `mtr_${"0".repeat(26)}`],
  );
  const busy = await run(books);
  await books.superuser.query("update meters set state = 'active'");
  const done = await run(books);

  expect(refused).toMatchObject({
    dropped: [],
    kept: `${month}: not all of its events are in an archive of the journal`,
  });
  expect(journaled).toMatchObject({
    dropped: [],
    kept: `${month}: rows of the journal that its events are from are still there`,
  });
  expect(busy).toMatchObject({ dropped: [], kept: `${month}: a meter is being built` });
  expect(done.dropped[0]).toBe(month);
  expect(before).toBe(157n);
  expect(await books.sum(totals)).toBe(before);
  expect(await books.sum("select count(*) as sum from usage_events")).toBe(1n);
  const { rows } = await books.superuser.query(
    `select mode, events::int, charged_nanos::int, fee_nanos::int, last_position::int
     from usage_partition_totals`,
  );
  expect(rows).toEqual([
    { mode: "live", events: 2, charged_nanos: 150, fee_nanos: 15, last_position: 1 },
  ]);
  expect(await forced(books)).toEqual(policed);
});

test("what fails in the middle leaves the events and the policies as they were", async () => {
  await using books = await openBooks();
  await books.journal.append([usage({ account: newAccountId(), developer: newAccountId() })]);
  await books.project();
  await age(books, 14);
  await run(books);
  await archive(books);
  await books.superuser.query(
    "alter table usage_partition_totals add constraint not_now check (events < 0)",
  );

  await expect(run(books)).rejects.toThrow("not_now");

  expect(await books.sum("select count(*) as sum from usage_events")).toBe(1n);
  expect(await forced(books)).toEqual(policed);
});

/** One event of a month that is long over, in its partition and in an archive. */
async function openOld(): Promise<{ books: Books; month: string }> {
  const books = await openBooks();
  const [account, developer] = [newAccountId(), newAccountId()];
  await books.grant(account, 10_000n);
  await books.journal.append([usage({ account, developer, charged: "100" })]);
  await books.project();
  const month = await age(books, 14);
  await run(books);
  await archive(books);
  return { books, month };
}

test("a month that got events again after it was removed adds them to its totals", async () => {
  const old = await openOld();
  await using books = old.books;
  await books.superuser.query(
    `insert into usage_partition_totals (
       received_month, mode, events, charged_nanos, fee_nanos, last_position
     ) values ($1, 'live', 2, 50, 5, 7)`,
    [old.month],
  );

  await run(books);

  const { rows } = await books.superuser.query(
    "select events::int, charged_nanos::int, last_position::int from usage_partition_totals",
  );
  expect(rows).toEqual([{ events: 3, charged_nanos: 150, last_position: 7 }]);
});

test("who reads events and then asks about meters is not shot while a month is removed", async () => {
  const old = await openOld();
  await using books = old.books;
  const { superuser } = books;
  // The session's own look at other sessions does not change within its transaction; that at locks does.
  const waiting = `select count(*) as sum from pg_locks
    where not granted and mode = 'AccessExclusiveLock'
      and database = (select oid from pg_database where datname = current_database())`;

  await superuser.query("begin");
  await superuser.query("select from usage_events limit 1");
  const removal = run(books);
  await until(async () => (await books.sum(waiting)) > 0n);
  await superuser.query("select from meters limit 1");
  await superuser.query("commit");

  expect((await removal).dropped).toEqual([old.month]);
});

test("a month stays while a meter counts anew from its events", async () => {
  const old = await openOld();
  await using books = old.books;
  await books.superuser.query(
    `insert into meter_recounts (account_id, meter_id, mode, bucket) values ($1, 'm', 'live', $2)`,
    [newAccountId(), old.month],
  );

  const { dropped, kept } = await run(books);

  expect([dropped, kept]).toEqual([[], `${old.month}: a meter counts anew`]);
});
