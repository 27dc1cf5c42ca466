import { expect, test } from "vitest";
import { getWatermark } from "../src/metering/journal.ts";
import { until } from "./support/app.ts";
import { newAccountId, openBooks, usage } from "./support/books.ts";
import { startProjectorProcess } from "./support/projector-processes.ts";

type Books = Awaited<ReturnType<typeof openBooks>>;

/** A lease lasts 5 s, and the locks of a stopped process 2 s. The rest is for a busy machine. */
const takeOverMs = 20_000;

test("what a stopped process began is undone, and another one applies it; nothing is applied twice", {
  timeout: 90_000,
}, async () => {
  await using books = await openBooks();
  const accounts = [newAccountId(0), newAccountId(1)];
  const developer = newAccountId();
  const append = () =>
    books.journal.append(accounts.flatMap((account) => usage({ account, developer })));
  await makeDawdling(books, "first");
  await using first = await startProjectorProcess(books.urls.worker, "first");
  await until(() => holds(books, first.holder));
  await using second = await startProjectorProcess(books.urls.worker, "second");
  await append();
  await applied(books);

  // In the middle of a transaction that has applied something and holds locks.
  await dawdle(books, true);
  await append();
  await until(() => isAsleep(books, "first"));
  first.child.kill("SIGSTOP");
  await dawdle(books, false);
  await append();
  await applied(books);

  expect(await holds(books, second.holder)).toBe(true);
  await expectOnce(books, 3n);

  // It still believes that it holds the shards.
  first.child.kill("SIGCONT");
  await append();
  await applied(books);
  expect(await holds(books, second.holder)).toBe(true);
  await expectOnce(books, 4n);

  // Whoever stops in order lets the other one go on at once.
  await second.stop();
  expect(await holders(books)).not.toContain(second.holder);
  await append();
  await applied(books);
  expect(await holds(books, first.holder)).toBe(true);
  await expectOnce(books, 5n);
});

test("what a process was killed with another one applies, and nothing is applied twice", async () => {
  await using books = await openBooks();
  const accounts = [newAccountId(0), newAccountId(1)];
  const developer = newAccountId();
  const append = () =>
    books.journal.append(accounts.flatMap((account) => usage({ account, developer })));
  await makeDawdling(books, "doomed");
  await using first = await startProjectorProcess(books.urls.worker, "doomed");
  await until(() => holds(books, first.holder));
  await using second = await startProjectorProcess(books.urls.worker, "doomed");
  let events = 0n;

  for (const { child, holder } of [first, second]) {
    // Before there is an heir, who would take what the one before has let go.
    await until(() => holds(books, holder), takeOverMs);
    await using heir = await startProjectorProcess(books.urls.worker, "heir");
    await dawdle(books, true);
    await append();
    await until(() => isAsleep(books, "doomed"));
    child.kill("SIGKILL");
    await dawdle(books, false);
    await append();
    await applied(books);
    events += 2n;
    await expectOnce(books, events);
    await heir.stop();
  }
});

/** Have processes of a name sleep in the middle of a round for as long as they shall dawdle. */
async function makeDawdling({ superuser }: Books, name: string): Promise<void> {
  await superuser.query(`
    create table dawdling as select false as is_on;
    grant select on dawdling to callora_worker;
    create function dawdle() returns trigger language plpgsql as $$
    begin
      while current_setting('application_name') = '${name}' and (select is_on from dawdling) loop
        perform pg_sleep(0.05);
      end loop;
      return new;
    end $$;
    create trigger dawdle before insert on charge_totals
      for each row execute function dawdle();
  `);
}

async function dawdle({ superuser }: Books, isOn: boolean): Promise<void> {
  await superuser.query("update dawdling set is_on = $1", [isOn]);
}

async function isAsleep({ superuser }: Books, name: string): Promise<boolean> {
  const { rowCount } = await superuser.query(
    "select from pg_stat_activity where datname = current_database() " +
      "and application_name = $1 and wait_event = 'PgSleep'",
    [name],
  );
  return (rowCount ?? 0) > 0;
}

async function holders({ superuser }: Books): Promise<(string | null)[]> {
  const { rows } = await superuser.query<{ holder: string | null }>(
    "select holder from projector_cursors",
  );
  return rows.map(({ holder }) => holder);
}

/** Whether a process holds all shards. */
async function holds(books: Books, holder: string): Promise<boolean> {
  return (await holders(books)).every((one) => one === holder);
}

async function applied({ db }: Books): Promise<void> {
  await until(async () => {
    const { applied: done, durable } = await db.systemTransaction(getWatermark);
    return done === durable;
  }, takeOverMs);
}

/** Each of the accounts was charged for so many events, each once. */
async function expectOnce({ sum }: Books, events: bigint): Promise<void> {
  expect(await sum("select count(*) as sum from usage_events")).toBe(2n * events);
  expect(await sum("select coalesce(sum(duplicates), 0) as sum from usage_events")).toBe(0n);
  expect(await sum("select sum(calls) from usage_rollups")).toBe(2n * events);
  const paid = "select sum(amount_nanos) from ledger_transfers where credit_kind = 'clearing'";
  expect(await sum(paid)).toBe(2_000n * events);
}
