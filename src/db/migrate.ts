import { createHash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { DatabaseConnectError } from "./connect-error.ts";
import { type MigrationFile, readMigrations } from "./migration-files.ts";

/** Where the migrations are and how long to wait. */
export interface MigrateOptions {
  directory: string;
  /** How long to wait for another process that migrates the same database. */
  waitTimeoutMs?: number;
}

/** One migration, as the files and the database see it. */
export interface MigrationState {
  version: number;
  name: string;
  /** `edited`: its file is not the one that was applied. `unknown`: there is no such file. */
  state: "applied" | "pending" | "edited" | "unknown";
  appliedAt: Date | null;
}

/** The migrations cannot be applied; nothing of the one it names has been. */
export class MigrationError extends Error {
  override name = "MigrationError";
}

const waitTimeoutDefaultMs = 60_000;
const pollMs = 100;
const connectTimeoutMs = 5_000;
const statementTimeoutMs = 600_000;
const lockTimeoutMs = 10_000;
const advisoryKey = 4_116_201_709;

/** Apply what is pending, up to version `to`; return the names. Throws MigrationError. */
export function migrateUp(
  url: string,
  options: MigrateOptions & { to?: number },
): Promise<string[]> {
  return withDatabase(url, options, async (client) => {
    const files = await readMigrations(options.directory);
    const applied = await listApplied(client);
    checkHistory(files, applied);
    for (const [index, row] of applied.entries()) {
      if (checksum(files[index]) === row.checksum) continue;
      throw cannot(`file ${files[index]?.upFile} has been edited since it was applied`);
    }
    const to = checkTarget(files, options.to ?? files.length);
    const pending = files.slice(applied.length, to);
    for (const file of pending) {
      const record = {
        text: "insert into public.callora_migrations (version, name, checksum) values ($1, $2, $3)",
        values: [file.version, file.name, checksum(file)],
      };
      await runFile({ client, name: file.upFile, text: file.up, record });
    }
    return pending.map((file) => file.name);
  });
}

/**
 * Undo the last `steps` migrations (1), or all above version `to`; return the names. Refuses while a
 * table that a down file declares with `-- refuses-rows:` has rows, unless `force` names that table.
 */
export function migrateDown(
  url: string,
  options: MigrateOptions & { steps?: number; to?: number; force?: string[] },
): Promise<string[]> {
  const { directory, steps, to, force = [] } = options;
  if (steps !== undefined && to !== undefined) throw cannot("give either steps or to");
  return withDatabase(url, options, async (client) => {
    const files = await readMigrations(directory);
    const applied = await listApplied(client);
    checkHistory(files, applied);
    const target = checkTarget(files, to ?? Math.max(0, applied.length - (steps ?? 1)));
    const undone = files.slice(target, applied.length).reverse();
    for (const { down, downFile } of undone) {
      if (down === null) throw cannot(`file ${downFile} is missing`);
    }
    for (const file of undone) {
      const record = {
        text: "delete from public.callora_migrations where version = $1",
        values: [file.version],
      };
      const text = file.down ?? "";
      const check = () => refuseRows({ client, name: file.downFile, text, force });
      await runFile({ client, name: file.downFile, text, record, check });
    }
    return undone.map((file) => file.name);
  });
}

/** Say of each migration whether it is applied. Changes nothing. */
export async function migrationStatus(
  url: string,
  { directory }: MigrateOptions,
): Promise<MigrationState[]> {
  const files = await readMigrations(directory);
  const applied = await withClient(url, listApplied);
  const rows = new Map(applied.map((row) => [row.version, row]));
  const states = files.map((file): MigrationState => {
    const row = rows.get(file.version);
    const { version, name } = file;
    if (row === undefined) return { version, name, state: "pending", appliedAt: null };
    const isSame = row.checksum === checksum(file) && row.name === name;
    return { version, name, state: isSame ? "applied" : "edited", appliedAt: row.applied_at };
  });
  const unknown = applied
    .filter((row) => row.version > files.length)
    .map(({ version, name, applied_at }): MigrationState => {
      return { version, name, state: "unknown", appliedAt: applied_at };
    });
  return [...states, ...unknown];
}

/** Check that an acknowledged commit survives a crash; throws MigrationError naming what prevents it. */
export async function assertDurable(url: string, { allowOff = false } = {}): Promise<void> {
  if (allowOff) return;
  const names = ["fsync", "full_page_writes", "synchronous_commit"];
  const query = "select name from pg_settings where name = any($1) and setting = 'off' order by 1";
  const off = await withClient(url, (client) => client.query(query, [names]));
  if (off.rows.length === 0) return;
  const settings = off.rows.map((row) => row.name).join(", ");
  throw new MigrationError(`Cannot rely on this database: ${settings} is off; turn it on`);
}

interface AppliedRow {
  version: number;
  name: string;
  checksum: string;
  applied_at: Date;
}

async function withClient<T>(url: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({
    connectionString: url,
    connectionTimeoutMillis: connectTimeoutMs,
    statement_timeout: statementTimeoutMs,
    lock_timeout: lockTimeoutMs,
    application_name: "callora migrate",
  });
  client.on("error", () => {});
  await client.connect().catch((cause) => {
    throw new DatabaseConnectError(url, cause);
  });
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

/** One process migrates a database at a time; its session's lock goes with it if it dies. */
function withDatabase<T>(
  url: string,
  { waitTimeoutMs = waitTimeoutDefaultMs }: MigrateOptions,
  work: (client: pg.Client) => Promise<T>,
): Promise<T> {
  return withClient(url, async (client) => {
    const deadline = performance.now() + waitTimeoutMs;
    // Asks again and again: a waiting statement would block `create index concurrently` in the other.
    while (!(await tryLock(client))) {
      if (performance.now() > deadline) {
        throw cannot(`another process has been migrating for more than ${waitTimeoutMs} ms`);
      }
      await sleep(pollMs);
    }
    await client.query(`
      create table if not exists public.callora_migrations (
        version int primary key,
        name text not null,
        checksum text not null,
        applied_at timestamptz not null default now()
      )`);
    return work(client);
  });
}

async function tryLock(client: pg.Client): Promise<boolean> {
  const result = await client.query("select pg_try_advisory_lock($1)", [advisoryKey]);
  return result.rows[0].pg_try_advisory_lock;
}

async function listApplied(client: pg.Client): Promise<AppliedRow[]> {
  const table = await client.query("select to_regclass('public.callora_migrations') as found");
  if (table.rows[0].found === null) return [];
  const rows = await client.query<AppliedRow>(
    "select version, name, checksum, applied_at from public.callora_migrations order by version",
  );
  return rows.rows;
}

/** What is applied must be a beginning of what the files say. */
function checkHistory(files: MigrationFile[], applied: AppliedRow[]): void {
  const newest = applied.at(-1)?.version ?? 0;
  if (newest > files.length) {
    throw cannot(
      `database schema is newer (${four(newest)}) than this server (${four(files.length)})`,
    );
  }
  for (const [index, row] of applied.entries()) {
    const file = files[index];
    if (row.version !== index + 1) throw cannot(`version ${four(index + 1)} was never applied`);
    if (row.name === file?.name) continue;
    throw cannot(`the database has "${row.name}" where this server has "${file?.name}"`);
  }
}

function checkTarget(files: MigrationFile[], to: number): number {
  if (Number.isInteger(to) && to >= 0 && to <= files.length) return to;
  throw cannot(`there is no version ${to}`);
}

/** Run a file and its bookkeeping as one transaction, unless its first line is `-- no-transaction`. */
async function runFile(options: {
  client: pg.Client;
  name: string;
  text: string;
  record: pg.QueryConfig;
  check?: () => Promise<void>;
}): Promise<void> {
  const { client, name, text, record, check = async () => {} } = options;
  const isAlone = /^-- no-transaction\s*$/m.test(text.split("\n")[0] ?? "");
  try {
    // What an earlier file set for its session must not reach this one.
    await client.query("reset all; reset role");
    await client.query("begin");
    await check();
    if (isAlone) {
      await client.query("rollback");
      // PostgreSQL takes the statements of one message as one transaction.
      for (const statement of text.split(/;[ \t]*$/m)) await client.query(statement);
      await client.query(record);
      return;
    }
    await client.query(text);
    await client.query(record);
    await client.query("commit");
  } catch (error) {
    await client.query("rollback").catch(() => {});
    if (error instanceof MigrationError) throw error;
    throw new MigrationError(`Cannot apply ${name}: ${explain(error, text)}`, { cause: error });
  }
}

/** Lock and count each table that the file declares, whatever row-level security would hide. */
async function refuseRows(options: {
  client: pg.Client;
  name: string;
  text: string;
  force: string[];
}): Promise<void> {
  const { client, name, text, force } = options;
  for (const table of declaredTables(text)) {
    if (force.includes(table)) continue;
    const found = await client.query("select to_regclass($1) as found", [table]);
    if (found.rows[0].found === null) continue;
    await client.query(`lock table ${table} in access exclusive mode`);
    await client.query("savepoint counting");
    await client.query(`alter table ${table} no force row level security`);
    await client.query("set local row_security = off");
    const rows = await client.query(`select count(*) as count from ${table}`);
    await client.query("rollback to savepoint counting");
    const count = rows.rows[0].count;
    if (count === "0") continue;
    throw cannot(
      `${name} would drop table ${table}, which has ${count} rows; force ${table} to do so`,
    );
  }
}

function declaredTables(text: string): string[] {
  const lines = text.matchAll(/^-- refuses-rows:(.*)$/gm);
  const tables = [...lines].flatMap(([, list = ""]) => list.split(",").map((name) => name.trim()));
  const wrong = tables.find((name) => !/^[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)?$/.test(name));
  if (wrong !== undefined)
    throw cannot(`"-- refuses-rows:" names "${wrong}", which is no table name`);
  return tables;
}

function explain(error: unknown, text: string): string {
  if (!(error instanceof Error)) return String(error);
  const position = error instanceof pg.DatabaseError ? Number(error.position ?? 0) : 0;
  if (position === 0) return error.message;
  return `${error.message} (line ${text.slice(0, position).split("\n").length})`;
}

/** Line ends are git's choice on some machines, so they do not count. */
function checksum(file: MigrationFile | undefined): string {
  const text = file?.up.replaceAll("\r\n", "\n") ?? "";
  return createHash("sha256").update(text).digest("hex");
}

function four(version: number): string {
  return String(version).padStart(4, "0");
}

function cannot(reason: string): MigrationError {
  return new MigrationError(`Cannot migrate: ${reason}`);
}
