import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test as base, expect } from "vitest";
import { archiveNext } from "../src/metering/archive.ts";
import { checkArchives } from "../src/metering/archive-check.ts";
import { decodeArchive, encodeArchive, readArchive } from "../src/metering/archive-file.ts";
import { must } from "./support/app.ts";
import {
  newAccountId,
  openBooks,
  openBooksAndNetwork,
  projectAll,
  seeded,
  usage,
} from "./support/books.ts";

type Books = Awaited<ReturnType<typeof openBooks>>;

const test = base.extend<{ directory: string }>({
  // biome-ignore lint/correctness/noEmptyPattern: vitest reads the parameter's names
  directory: async ({}, use) => {
    const directory = await mkdtemp(join(tmpdir(), "callora-archive-"));
    await use(directory);
    await rm(directory, { recursive: true });
  },
});

const seed = Number(process.env.CALLORA_TEST_SEED ?? Date.now() % 1_000_000);
const dayMs = 24 * 60 * 60 * 1_000;

function archive(
  books: Books,
  directory: string,
  daysLater: number,
  keepDays = 45,
): Promise<boolean> {
  const now = () => new Date(Date.now() + daysLater * dayMs);
  return archiveNext({ db: books.db, directory, keepDays, now });
}

/** Rows with a charge, a duplicate and a correction, all applied. */
async function fill(books: Books): Promise<void> {
  const [account, developer] = [newAccountId(), newAccountId()];
  await books.grant(account, 10_000n);
  const first = usage({ account, developer, charged: "100" });
  const { source, id } = first;
  await books.journal.append([first, usage({ account, developer, charged: "20", mode: "test" })]);
  await books.journal.append([first]);
  const correction = { kind: "adjust", account, source, id, reason: "x" } as const;
  await books.journal.append([
    { ...correction, correctionId: `cor_${"0".repeat(26)}`, adjustedNanos: 70n },
  ]);
  await books.project();
}

async function archives(books: Books) {
  const { rows } = await books.superuser.query(
    `select first_position::int as first, last_position::int as last, file, sha256,
       entries::int, charged_live_nanos::int as live, charged_test_nanos::int as test,
       trimmed_at is not null as is_trimmed
     from journal_archives order by 1`,
  );
  return rows;
}

test("rows are in a file after a day, with what they came to, and gone after 45", async ({
  directory,
}) => {
  await using books = await openBooks();
  await fill(books);
  const { rows: journal } = await books.superuser.query(
    "select position, body from usage_journal order by position",
  );

  await archive(books, directory, 0.5);
  expect(await archives(books)).toEqual([]);
  await archive(books, directory, 2);
  const [row, ...others] = await archives(books);
  const read = await readArchive(directory, row.file, row.sha256);
  await archive(books, directory, 44);
  const kept = await books.sum("select count(*) as sum from usage_journal");
  await archive(books, directory, 46);

  expect(others).toEqual([]);
  expect(row).toMatchObject({ first: 1, last: 3, entries: 4, live: 70, test: 20 });
  expect(read.map(({ position, body }) => ({ position: `${position}`, body }))).toEqual(journal);
  expect(kept).toBe(3n);
  expect(await books.sum("select count(*) as sum from usage_journal")).toBe(0n);
  expect((await archives(books))[0].is_trimmed).toBe(true);
  // The chain of ratings goes on from the last of each shard.
  expect(await books.sum("select count(*) as sum from projections")).toBe(1n);
  await fill(books);
  expect(await books.sum("select max(last_position) as sum from projections")).toBe(6n);
});

test("rows that are not applied, or not archived, stay", async ({ directory }) => {
  await using books = await openBooks();
  await books.journal.append([usage({ account: newAccountId(), developer: newAccountId() })]);

  await archive(books, directory, 100);

  expect(await archives(books)).toEqual([]);
  expect(await books.sum("select count(*) as sum from usage_journal")).toBe(1n);
  await expect(books.superuser.query("delete from usage_journal")).rejects.toThrow(
    "trimmed behind archive and projector only",
  );
});

test("a crash between the file and its note loses nothing", async ({ directory }) => {
  await using books = await openBooks();
  await fill(books);
  await books.superuser.query("revoke insert on journal_archives from callora_worker");
  await expect(archive(books, directory, 60)).rejects.toThrow("denied");
  const [file = ""] = await readdir(directory);
  expect(await books.sum("select count(*) as sum from usage_journal")).toBe(3n);

  // What is there now is not what it was.
  await writeFile(join(directory, file), "cut off");
  await books.superuser.query("grant insert on journal_archives to callora_worker");
  await archive(books, directory, 60);

  const [row] = await archives(books);
  expect(row.file).toBe(file);
  expect(await readArchive(directory, file, row.sha256)).toHaveLength(3);
  expect(await checkArchives({ db: books.db, directory })).toEqual({ files: 1, problem: null });
  await writeFile(join(directory, file), "cut off");
  await expect(readArchive(directory, file, row.sha256)).rejects.toThrow("not the file");
  expect(await checkArchives({ db: books.db, directory })).toEqual({
    files: 0,
    problem: `Cannot read ${file}: it is not the file that was archived`,
  });
  await rm(join(directory, file));
  expect(await checkArchives({ db: books.db, directory })).toMatchObject({
    problem: expect.stringContaining("ENOENT"),
  });
});

test("two processes make one archive", async ({ directory }) => {
  await using books = await openBooks();
  await fill(books);

  await Promise.all([archive(books, directory, 2), archive(books, directory, 2)]);

  expect(await archives(books)).toHaveLength(1);
  expect(await readdir(directory)).toHaveLength(1);
});

test("a file's name tells its bytes: who packs the same rows in another way takes no one's place", async ({
  directory,
}) => {
  await using books = await openBooks();
  await fill(books);

  await archive(books, directory, 2);

  const [{ file, sha256 }] = await archives(books);
  expect(file).toBe(`journal-1-3-${sha256.toString("hex").slice(0, 16)}.bin.gz`);
});

test("an archive that is cut off is not read", () => {
  const row = {
    position: 7n,
    shard: 1,
    codec: 1,
    appendedMicros: 1_700_000_000_000_001n,
    entries: 3,
    body: Buffer.from("body"),
  };
  const bytes = encodeArchive([row, { ...row, position: 8n, body: Buffer.alloc(0) }]);

  expect(decodeArchive(bytes)).toEqual([row, { ...row, position: 8n, body: Buffer.alloc(0) }]);
  expect(() => decodeArchive(bytes.subarray(0, -1))).toThrow("cut off");
  expect(() => decodeArchive(bytes.subarray(1))).toThrow("does not begin as one");
});

/** Rows of both shards, a tenth of a day apart, up to now, applied in batches of many rows. */
async function fillDays(books: Books, random: () => number, rows: number): Promise<void> {
  const accounts = [newAccountId(0), newAccountId(1), newAccountId(0)];
  const developer = newAccountId();
  for (const account of accounts) {
    await books.grant(account, 5_000n);
  }
  const seen: ReturnType<typeof usage>[] = [];
  const pick = <T>(list: readonly T[]) => must(list[Math.floor(random() * list.length)]);
  for (let row = 0; row < rows; row++) {
    const isAgain = seen.length > 0 && random() < 0.1;
    const charged = String(Math.floor(random() * 900));
    const fresh = usage({ account: pick(accounts), developer, charged, feeBasisPoints: 777 });
    const entry = isAgain ? pick(seen) : fresh;
    seen.push(entry);
    await books.journal.append([entry]);
  }
  const { superuser } = books;
  await superuser.query("set session_replication_role = replica");
  await superuser.query(
    `update usage_journal set appended_at = now() - ($1 - position) * interval '0.1 day'`,
    [rows],
  );
  await superuser.query("set session_replication_role = origin");
  await projectAll(books.db, new Date(), { entriesMax: 7 });
}

test(`the books are in order wherever the journal was trimmed (seed ${seed})`, async ({
  directory,
}) => {
  await using books = await openBooksAndNetwork();
  const random = seeded(seed);
  await fillDays(books, random, 120);
  expect(await books.conservation()).toMatchObject({ ok: true });

  let looks = 0;
  for (let days = -10; days < 6; days += 0.5 + random()) {
    while (await archive(books, directory, days, 3)) {}
    // As it is while the oldest archive is removed, some rows at a time.
    const oldest = (await archives(books)).find((one) => !one.is_trimmed);
    if (oldest !== undefined && random() < 0.5) {
      const cut = oldest.first + Math.floor(random() * (oldest.last - oldest.first + 1));
      await books.superuser.query("delete from usage_journal where position <= $1", [cut]);
    }
    const { ok, difference, checks } = await books.conservation();
    const wrong = checks.filter((check) => !check.ok);
    expect({ ok, difference, wrong }, `seed ${seed}, ${days} days`).toEqual({
      ok: true,
      difference: null,
      wrong: [],
    });
    looks += 1;
  }
  expect(looks).toBeGreaterThan(9);
  expect((await archives(books)).filter((one) => one.is_trimmed).length).toBeGreaterThan(1);
  expect(await books.sum("select count(*) as sum from usage_journal")).toBeLessThan(120n);
});
