import { appendFile, mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import pg from "pg";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { type Cluster, startCluster, type TestDatabase } from "../../test/support/cluster.ts";
import { assertDurable, migrateDown, migrateUp, migrationStatus } from "./migrate.ts";

let cluster: Cluster;
let base: string;
let database: TestDatabase;
let directory: string;
let url: string;
let made = 0;

beforeAll(async () => {
  base = await mkdtemp(path.join(os.tmpdir(), "callora-migrate-"));
  cluster = await startCluster();
  await mkdir(path.join(base, "none"));
  await cluster.createTemplate(path.join(base, "none"));
});

afterAll(async () => {
  await cluster?.stop();
  await rm(base, { recursive: true, force: true });
});

beforeEach(async () => {
  database = await cluster.createDatabase();
  url = database.urls.owner;
  directory = path.join(base, `migrations-${made++}`);
  await mkdir(directory);
  await write("0001_create_books.up.sql", "create table books (id int primary key);");
  await write("0001_create_books.down.sql", "drop table books;");
  await write(
    "0002_add_title.up.sql",
    "alter table books add title text;\ncreate index books_title on books (title);",
  );
  await write("0002_add_title.down.sql", "alter table books drop title;");
  return () => database.drop();
});

test("up, down and up again give the same schema", async () => {
  expect(await migrateUp(url, { directory })).toEqual(["0001_create_books", "0002_add_title"]);
  const before = await schema();

  const undone = await migrateDown(url, { directory, to: 0 });
  expect(await schema()).toEqual([]);
  await migrateUp(url, { directory, to: 1 });
  const again = await migrateUp(url, { directory });

  expect(undone).toEqual(["0002_add_title", "0001_create_books"]);
  expect(again).toEqual(["0002_add_title"]);
  expect(await schema()).toEqual(before);
  expect(before).toContain("books.title text");
  expect(await migrateUp(url, { directory })).toEqual([]);
});

test("down undoes one step unless told otherwise", async () => {
  await migrateUp(url, { directory });

  const undone = await migrateDown(url, { directory });

  expect(undone).toEqual(["0002_add_title"]);
  const states = await migrationStatus(url, { directory });
  expect(states).toMatchObject([
    { version: 1, state: "applied", appliedAt: expect.any(Date) },
    { version: 2, state: "pending", appliedAt: null },
  ]);
});

test("status of a database that was never migrated changes nothing", async () => {
  await query("drop table callora_migrations");

  const states = await migrationStatus(url, { directory });

  expect(states.map((row) => row.state)).toEqual(["pending", "pending"]);
  expect(await query("select to_regclass('callora_migrations') as found")).toEqual([
    { found: null },
  ]);
});

test("a migration that was edited after it was applied is refused by name", async () => {
  await migrateUp(url, { directory });
  await appendFile(path.join(directory, "0001_create_books.up.sql"), "-- more");

  await expect(migrateUp(url, { directory })).rejects.toThrow(
    "Cannot migrate: file 0001_create_books.up.sql has been edited since it was applied",
  );
  const states = await migrationStatus(url, { directory });
  expect(states.map((row) => row.state)).toEqual(["edited", "applied"]);
});

test("a database that is newer than the files is refused both ways", async () => {
  await migrateUp(url, { directory });
  await rm(path.join(directory, "0002_add_title.up.sql"));
  await rm(path.join(directory, "0002_add_title.down.sql"));
  const message = "database schema is newer (0002) than this server (0001)";

  await expect(migrateUp(url, { directory })).rejects.toThrow(message);
  await expect(migrateDown(url, { directory })).rejects.toThrow(message);
  const states = await migrationStatus(url, { directory });
  expect(states.map((row) => row.state)).toEqual(["applied", "unknown"]);
});

test("a failing migration leaves nothing of itself and keeps those before it", async () => {
  await write("0003_fail.up.sql", "create table half (id int);\n\nselect 1 / 0;");
  await write("0004_syntax.up.sql", "select 1;\nselect 'ok' frm books;");

  await expect(migrateUp(url, { directory })).rejects.toThrow(
    "Cannot apply 0003_fail.up.sql: division by zero",
  );
  expect((await schema()).filter((line) => line.startsWith("half"))).toEqual([]);
  expect((await migrationStatus(url, { directory }))[2]?.state).toBe("pending");
  await write("0003_fail.up.sql", "create table half (id int);");

  await expect(migrateUp(url, { directory })).rejects.toThrow(/0004_syntax.up.sql: .*\(line 2\)/);
});

test("of two processes that migrate at once, one finds nothing to do", async () => {
  await write("0003_slow.up.sql", "select pg_sleep(0.3); create table slow (id int);");

  const both = await Promise.all([migrateUp(url, { directory }), migrateUp(url, { directory })]);

  expect(both.map((names) => names.length).sort()).toEqual([0, 3]);
});

test("a process does not wait for ever for another that migrates", async () => {
  await write("0003_slow.up.sql", "select pg_advisory_xact_lock(1);");
  const holder = new pg.Client(url);
  await holder.connect();
  await holder.query("select pg_advisory_lock(1)");
  const first = migrateUp(url, { directory });
  await until(`select from pg_locks join pg_database on pg_database.oid = database
    where locktype = 'advisory' and not granted and datname = current_database()`);

  const second = migrateUp(url, { directory, waitTimeoutMs: 200 });

  await expect(second).rejects.toThrow("another process has been migrating for more than 200 ms");
  await holder.end();
  expect(await first).toHaveLength(3);
});

test("a migration may leave its transaction for what cannot be in one", async () => {
  await write(
    "0003_index.up.sql",
    "-- no-transaction\ncreate index concurrently a on books (id);\n" +
      "create index concurrently b on books (id);\n",
  );

  const both = await Promise.all([
    migrateUp(url, { directory }),
    // One that waits meanwhile must not block the index.
    migrateUp(url, { directory }),
  ]);

  const indexes = (await schema()).filter((line) => /INDEX [ab] ON/.test(line));
  expect(indexes).toHaveLength(2);
  expect(both.map((names) => names.length).sort()).toEqual([0, 3]);
});

test.for([
  { file: "0004_gap.up.sql", reason: "0003 is missing before 0004_gap" },
  { file: "0002_other.up.sql", reason: "0002_add_title and 0002_other have the same number" },
  { file: "0003_only.down.sql", reason: "file 0003_only.up.sql is missing" },
  { file: "3_short.up.sql", reason: "file 3_short.up.sql is not named NNNN_name.up.sql" },
])("files that make no sequence are refused before any runs: $reason", async (row) => {
  await write(row.file, "select 1;");

  await expect(migrateUp(url, { directory })).rejects.toThrow(row.reason);
  expect(await schema()).toEqual([]);
});

test("down without a down file is refused before anything is undone", async () => {
  await rm(path.join(directory, "0001_create_books.down.sql"));
  await migrateUp(url, { directory });
  const before = await schema();

  const down = migrateDown(url, { directory, steps: 2 });

  await expect(down).rejects.toThrow("file 0001_create_books.down.sql is missing");
  expect(await schema()).toEqual(before);
});

test("rows of an append-only table survive down unless that very table is forced", async () => {
  await write(
    "0003_logs.up.sql",
    `create table audit_logs (id int); create table transfers (id int);
     alter table audit_logs enable row level security, force row level security;`,
  );
  await write(
    "0003_logs.down.sql",
    "-- refuses-rows: transfers, audit_logs\ndrop table audit_logs; drop table transfers;",
  );
  await migrateUp(url, { directory });
  await query("insert into audit_logs values (1), (2)", database.urls.superuser);

  const message = "0003_logs.down.sql would drop table audit_logs, which has 2 rows";
  await expect(migrateDown(url, { directory })).rejects.toThrow(message);
  await expect(migrateDown(url, { directory, force: ["transfers"] })).rejects.toThrow(message);
  const isForced = "select relforcerowsecurity as ok from pg_class where relname = 'audit_logs'";
  expect(await query(isForced)).toEqual([{ ok: true }]);

  expect(await migrateDown(url, { directory, force: ["audit_logs"] })).toEqual(["0003_logs"]);
});

test("assertDurable names the settings that would lose a commit", async () => {
  await query(
    `alter role callora_app in database ${database.name} set synchronous_commit = off`,
    database.urls.superuser,
  );

  await expect(assertDurable(database.urls.app)).rejects.toThrow(/synchronous_commit.* is off/);
  await assertDurable(database.urls.app, { allowOff: true });
});

test("databases are made at the same time and are each their own", async () => {
  const names = [1, 2, 3, 4];
  const databases = await Promise.all(names.map(() => cluster.createDatabase()));

  for (const one of databases) await query("create table mine (id int)", one.urls.owner);

  const app = query("create table theirs (id int)", databases[0]?.urls.app);
  await expect(app).rejects.toThrow(/permission denied/);
  await Promise.all(databases.map((one) => one.drop()));
});

function write(file: string, text: string): Promise<void> {
  return writeFile(path.join(directory, file), text);
}

/** Every column and index of the public schema but the bookkeeping's. */
async function schema(): Promise<string[]> {
  const rows = await query(`
    select table_name || '.' || column_name || ' ' || data_type as line
      from information_schema.columns where table_schema = 'public'
    union all select tablename || ': ' || indexdef from pg_indexes where schemaname = 'public'
    order by 1`);
  const lines = rows.map((row) => String(row.line));
  return lines.filter((line) => !line.startsWith("callora_migrations"));
}

async function query(text: string, on = url): Promise<Record<string, unknown>[]> {
  const client = new pg.Client({ connectionString: on, connectionTimeoutMillis: 5_000 });
  await client.connect();
  try {
    return (await client.query(text)).rows;
  } finally {
    await client.end();
  }
}

async function until(text: string): Promise<void> {
  const deadline = performance.now() + 10_000;
  while ((await query(text)).length === 0) expect(performance.now()).toBeLessThan(deadline);
}
