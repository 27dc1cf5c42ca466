import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { readdir } from "node:fs/promises";
import path from "node:path";
import { promisify } from "node:util";
import pg from "pg";
import { test as base, expect, inject } from "vitest";
import { ensureDatabase } from "../src/db/embedded-roles.ts";
import { migrateDown, migrateUp } from "../src/db/migrate.ts";
import { catalogue, connected } from "./support/catalogue.ts";
import { createDatabase, type TestDatabase } from "./support/cluster.ts";

const directory = "migrations";
/** Several times what a busy machine needs for all migrations, up and down. */
const timeout = 90_000;
const bookkeeping = "callora_migrations";

/** Tables that start a look-up before the account is known: their key is what is looked up. */
const directoryTables: Readonly<Record<string, string>> = {
  api_key_directory: "whose a key's hash is",
  router_key_directory: "whose a router key's hash is",
  user_directory: "whose a name is",
  email_directory: "whose a mail address is",
  person_directory: "whose own account a person's is",
  member_directory: "which accounts a person is a member of",
  invitation_directory: "whose an invitation's token's hash is",
  sessions: "whose a session is, by its id or the hash of its token",
  api_token_directory: "whose an API token's hash is",
  user_identities: "whose a subject of another issuer is",
  api_directory: "whose an API's id is",
  api_slugs: "whose a slug is",
  purchase_directory: "whose a purchase is",
};

/** Tables that belong to no account, or to two: for the worker alone. */
const workerTables: Readonly<Record<string, string>> = {
  sign_in_methods: "read by the person alone, before the account is known",
  sign_in_tokens: "what somebody shows who is not known yet",
  second_factors: "read by the person alone, before they are signed in",
  journal_head: "one row: the order of all shards",
  usage_journal: "a batch holds events of many accounts",
  projector_cursors: "one row for each shard",
  projections: "what was applied together is of many accounts",
  outbox: "read in its order, over all accounts",
  periods: "a month is closed for all accounts",
  journal_archives: "a file holds events of many accounts",
  usage_partition_totals: "a dropped partition held events of many accounts",
  usage_quarantine: "its account is what a sender said, and may be none",
  settlements: "a run pays many accounts",
  settlement_slots: "a slot of the chain pays many accounts",
  settlement_slot_payouts: "a slot of the chain pays many accounts",
  settlement_attempts: "a transaction of the chain pays many accounts",
  settlement_attempt_payouts: "a transaction of the chain pays many accounts",
  encryption_keys: "a key seals for all accounts",
  processes: "one row for each process of the server",
  wallet_challenges: "a challenge is used before it is known by whom",
  service_tokens: "services belong to the platform",
  credit_plans: "the platform sells them to all accounts",
  payment_events: "a payment may be of no account",
  payment_cursors: "one row for each source of payments",
  invoice_rounds: "one row for each month: how far its invoices are issued",
  invoice_retries: "read by the loop alone, over all accounts",
  billing_baseline: "one row for each mode: sums over all accounts",
};

/** Tables that every account's changes count in, and that hold nothing of any account. */
const sharedTables: Readonly<Record<string, string>> = {
  trust_epoch: "one number, counted up by whoever announces a change",
};

/** Tables whose rows never change, and what is refused to whoever owns them. */
const appendOnly: Readonly<Record<string, readonly string[]>> = {
  audit_logs: ["update", "delete", "truncate"],
  ledger_transfers: ["update", "delete", "truncate"],
  api_prices: ["update", "delete", "truncate"],
  usage_journal: ["update", "truncate"],
  usage_corrections: ["update", "delete", "truncate"],
  invoices: ["update", "delete", "truncate"],
};

interface Fixtures {
  $file: { database: TestDatabase; owner: pg.Client; root: pg.Client };
}

const test = base.extend<Fixtures>({
  database: [
    // biome-ignore lint/correctness/noEmptyPattern: vitest reads the pattern
    async ({}, use) => {
      const database = await createDatabase(inject("cluster"));
      await use(database);
      await database.drop();
    },
    { scope: "file" },
  ],
  owner: [({ database }, use) => connected(database.urls.owner, use), { scope: "file" }],
  root: [({ database }, use) => connected(database.urls.superuser, use), { scope: "file" }],
});

test("every table has row-level security, for its owner too", async ({ owner }) => {
  const { rows } = await owner.query(`
    select relname as name, relrowsecurity as enabled, relforcerowsecurity as forced
    from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')
    order by relname
  `);

  expect(rows.length).toBeGreaterThan(20);
  for (const { name, enabled, forced } of rows) {
    // What was migrated is nobody's secret, and no role of the server has a right to it.
    expect({ name, enabled, forced }).toEqual({
      name,
      enabled: name !== bookkeeping,
      forced: name !== bookkeeping,
    });
  }
});

test("the account leads the key of every tenant table", async ({ owner }) => {
  const { rows } = await owner.query(`
    select class.relname as name, attribute.attname as leading
    from pg_class as class
    join pg_constraint on conrelid = class.oid and contype = 'p'
    join pg_attribute as attribute on attrelid = class.oid and attnum = conkey[1]
    where class.relnamespace = 'public'::regnamespace and relkind in ('r', 'p')
      and relname <> '${bookkeeping}'
  `);
  const tables = await tableNames(owner);
  const keyed = new Map(rows.map(({ name, leading }) => [name, leading]));

  expect([...keyed.keys()].sort()).toEqual(tables.toSorted());
  for (const name of tables.filter(isTenantTable)) {
    expect([name, keyed.get(name)]).toEqual([name, "account_id"]);
  }
});

test("every table of accounts says whose a row is, in text that is never null", async ({
  owner,
}) => {
  const { rows } = await owner.query(`
    select table_name as name, data_type as type, is_nullable as nullable
    from information_schema.columns where table_schema = 'public' and column_name = 'account_id'
  `);
  const columns = new Map(rows.map(({ name, type, nullable }) => [name, [type, nullable]]));
  const tables = (await tableNames(owner)).filter(
    (name) => isTenantTable(name) || name in directoryTables,
  );

  for (const name of tables) {
    expect([name, columns.get(name)]).toEqual([name, ["text", "NO"]]);
  }
});

test("the lists of special tables name tables that exist", async ({ owner }) => {
  const tables = await tableNames(owner);
  const named = [directoryTables, workerTables, sharedTables, appendOnly].flatMap((list) =>
    Object.keys(list),
  );

  expect(named.filter((name) => !tables.includes(name))).toEqual([]);
});

test("every tenant table is isolated by account for the app role", async ({ owner }) => {
  const { rows } = await owner.query(`
    select tablename as name, cmd, qual, with_check from pg_policies
    where schemaname = 'public' and policyname = 'tenant' and roles = '{callora_app}'
      and permissive = 'PERMISSIVE'
  `);
  const own = "(account_id = callora_account())";

  const isolated = rows.filter((row) => row.cmd === "ALL" && row.qual === own);
  expect(isolated.every((row) => row.with_check === own)).toBe(true);
  const wanted = (await tableNames(owner)).filter(
    (name) => !(name in workerTables) && !(name in sharedTables),
  );
  expect(isolated.map(({ name }) => name).sort()).toEqual(wanted.toSorted());
});

test("whatever else the app role may see is published, or the epoch that it counts up", async ({
  owner,
}) => {
  const { rows } = await owner.query(`
    select tablename as name, policyname as policy, cmd from pg_policies
    where schemaname = 'public' and policyname not in ('tenant', 'worker') order by 1, 2
  `);

  expect(rows).toEqual([
    { name: "api_prices", policy: "published", cmd: "SELECT" },
    { name: "apis", policy: "published", cmd: "SELECT" },
    { name: "trust_epoch", policy: "announce", cmd: "UPDATE" },
    { name: "trust_epoch", policy: "announce_read", cmd: "SELECT" },
  ]);
});

test("the app role has no right to the worker's tables, nor either to the runner's", async ({
  owner,
}) => {
  const privileges = ["select", "insert", "update", "delete", "truncate", "references", "trigger"];
  const cases = [
    ...Object.keys(workerTables).map((table) => ["callora_app", table]),
    ["callora_app", bookkeeping],
    ["callora_worker", bookkeeping],
  ];
  for (const [role, table] of cases) {
    const { rows } = await owner.query(
      "select has_table_privilege($1, $2, $3) or has_any_column_privilege($1, $2, $4) as may",
      [role, `public.${table}`, privileges.join(","), "select, insert, update, references"],
    );
    expect([role, table, rows[0].may]).toEqual([role, table, false]);
  }
});

test("no role of the server may truncate, or change the shape of, anything", async ({ owner }) => {
  const { rows } = await owner.query(`
    select grantee, table_name, privilege_type from information_schema.table_privileges
    where table_schema = 'public' and grantee in ('callora_app', 'callora_worker', 'PUBLIC')
      and privilege_type in ('TRUNCATE', 'TRIGGER', 'REFERENCES')
  `);
  const creates = await owner.query(`
    select has_schema_privilege('callora_app', 'public', 'create')
      or has_schema_privilege('callora_worker', 'public', 'create') as may
  `);

  expect(rows).toEqual([]);
  expect(creates.rows[0].may).toBe(false);
});

test("the app role may delete nothing", async ({ owner }) => {
  const { rows } = await owner.query(`
    select table_name from information_schema.table_privileges
    where grantee = 'callora_app' and privilege_type = 'DELETE'
  `);

  expect(rows).toEqual([]);
});

test("every view runs with the rights of whoever asks", async ({ owner }) => {
  const { rows } = await owner.query(`
    select relname as name, reloptions as options
    from pg_class where relnamespace = 'public'::regnamespace and relkind in ('v', 'm')
  `);

  expect(rows.length).toBeGreaterThan(0);
  for (const { name, options } of rows) {
    expect([name, options]).toEqual([name, ["security_invoker=true"]]);
  }
});

test("no function runs with the rights of its owner", async ({ owner }) => {
  const { rows } = await owner.query(`
    select proname from pg_proc where pronamespace = 'public'::regnamespace and prosecdef
  `);

  expect(rows).toEqual([]);
});

test("the roles of the server own nothing and pass by no policy", async ({ owner }) => {
  const roles = await owner.query(`
    select rolname as name, rolsuper or rolbypassrls or rolcreaterole or rolcreatedb or rolreplication
      as powerful
    from pg_roles where rolname in ('callora_app', 'callora_worker', 'callora_owner') order by 1
  `);
  const owned = await owner.query(`
    select relname as name, rolname as role from pg_class join pg_roles on pg_roles.oid = relowner
    where rolname in ('callora_app', 'callora_worker')
    union all
    select proname, rolname from pg_proc join pg_roles on pg_roles.oid = proowner
    where rolname in ('callora_app', 'callora_worker')
  `);
  const members = await owner.query(`
    select pg_has_role('callora_app', 'callora_worker', 'member')
      or pg_has_role('callora_app', 'callora_owner', 'member')
      or pg_has_role('callora_worker', 'callora_owner', 'member') as linked
  `);

  expect(roles.rows).toEqual([
    { name: "callora_app", powerful: false },
    { name: "callora_owner", powerful: false },
    { name: "callora_worker", powerful: false },
  ]);
  expect(owned.rows).toEqual([]);
  expect(members.rows[0].linked).toBe(false);
});

const refusals = Object.entries(appendOnly).flatMap(([table, verbs]) =>
  verbs.map((verb) => ({ table, verb })),
);

test.for(refusals)(
  "$verb of $table is refused to its owner and to a superuser",
  async (row, { owner, root }) => {
    const { table, verb } = row;
    const statement = {
      update: `update ${table} set ${table === "usage_journal" ? "entries = entries" : "account_id = account_id"}`,
      delete: `delete from ${table}`,
      truncate: `truncate ${table}`,
    }[verb];

    for (const client of [owner, root]) {
      await client.query("begin");
      await insertInto(client, table);
      await expect(client.query(statement ?? "")).rejects.toMatchObject({
        message: `${table} is append-only`,
      });
      await client.query("rollback");
    }
  },
);

test("the audit log has its table, its keys and its three indexes", async ({ owner }) => {
  const { rows } = await owner.query(`
    select indexdef from pg_indexes where tablename = 'audit_logs' order by indexname
  `);

  expect(rows.map(({ indexdef }) => indexdef.replace(/^.* USING /, ""))).toEqual([
    "btree (account_id, action, created_at DESC)",
    "btree (account_id, actor_user_id, created_at DESC)",
    "btree (account_id, id)",
    "btree (account_id, resource, created_at DESC)",
  ]);
  expect(await tableNames(owner)).toEqual(
    expect.arrayContaining(["api_keys", "vaults", "audit_logs"]),
  );
});

test("undone and applied again, the migrations leave the same schema", { timeout }, async () => {
  await using fresh = await emptyDatabase();
  await migrateUp(fresh.urls.owner, { directory });
  const before = await catalogue(fresh.urls.owner);

  await migrateDown(fresh.urls.owner, { directory, to: 0 });
  const between = await catalogue(fresh.urls.owner);
  await migrateUp(fresh.urls.owner, { directory });

  expect(between.filter((line) => !line.includes(bookkeeping))).toEqual([]);
  expect(await catalogue(fresh.urls.owner)).toEqual(before);
  expect(before.length).toBeGreaterThan(300);
});

test("each migration alone can be undone and applied again", { timeout }, async () => {
  await using fresh = await emptyDatabase();
  await migrateUp(fresh.urls.owner, { directory });
  const versions = (await readdir(directory)).filter((name) => name.endsWith(".up.sql")).length;
  const steps: string[][] = [];
  for (let version = versions; version > 0; version--) {
    const [name = ""] = await migrateDown(fresh.urls.owner, { directory });
    steps.push([name, ...(await migrateUp(fresh.urls.owner, { directory, to: version }))]);
    await migrateDown(fresh.urls.owner, { directory });
  }

  expect(steps).toHaveLength(versions);
  expect(steps.every(([down, up]) => down !== undefined && down === up)).toBe(true);
});

// A machine without psql must say that it means it: a test that is left out in silence guards nothing.
test.skipIf(process.env.CALLORA_TEST_WITHOUT_PSQL === "1")(
  "plain psql applies and undoes the same migrations",
  { timeout },
  async ({ database }) => {
    await using fresh = await emptyDatabase();
    const files = (await readdir(directory)).sort();

    await runPsql(
      fresh.urls.owner,
      files.filter((name) => name.endsWith(".up.sql")),
    );

    const applied = (await catalogue(database.urls.owner)).filter(
      (line) => !line.includes(bookkeeping),
    );
    expect(await catalogue(fresh.urls.owner)).toEqual(applied);
    await runPsql(fresh.urls.owner, files.filter((name) => name.endsWith(".down.sql")).reverse());
    expect(await catalogue(fresh.urls.owner)).toEqual([]);
  },
);

function isTenantTable(name: string): boolean {
  return [directoryTables, workerTables, sharedTables].every((list) => !(name in list));
}

async function tableNames(client: pg.Client): Promise<string[]> {
  const { rows } = await client.query(
    `select relname as name from pg_class
     where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and relname <> $1
     order by relname`,
    [bookkeeping],
  );
  return rows.map(({ name }) => name);
}

/** Put a row into an append-only table, whatever row-level security says, so that there is one to change. */
async function insertInto(client: pg.Client, table: string): Promise<void> {
  const columns = {
    audit_logs:
      "(account_id, actor_user_id, action, resource, outcome, request_id) values ('a','a','a','a','done','a')",
    ledger_transfers:
      "(account_id, id, mode, debit_kind, credit_kind, amount_nanos, source_type, source_id, position) " +
      `values ('a','trf_${"0".repeat(26)}','live','clearing','consumer',1,'a','a',0)`,
    api_prices:
      "(account_id, api_id, version, call_nanos, fee_basis_points) values ('a','a',1,1,1)",
    usage_journal: "(shard, position, body) values (0, 1, '')",
    usage_corrections:
      "(account_id, id, event_key, event_position, event_ordinal, is_void, mode, developer_account_id, api_id, " +
      "bucket, booked_month, delta_nanos, delta_fee_nanos, reason, shard, position, ordinal, created_at) " +
      `values ('a','cor_${"0".repeat(26)}','a',1,0,false,'live','a','a',now(),now(),1,0,'a',0,1,0,now())`,
    invoices:
      "(account_id, id, number, mode, month, content, charged_nanos, issued_at) " +
      `values ('a','ivc_${"0".repeat(26)}','a','live','2026-01-01','',0,now())`,
  }[table];
  await client.query(`alter table ${table} no force row level security`);
  await client.query(`insert into ${table} ${columns}`);
}

/** A database that no migration has touched. */
async function emptyDatabase() {
  const { urls, template } = inject("cluster");
  const name = `${template}_${randomBytes(6).toString("hex")}`;
  const root = new pg.Client({ connectionString: urls.superuser, statement_timeout: 60_000 });
  await root.connect();
  await ensureDatabase(root, name);
  const owner = Object.assign(new URL(urls.owner), { pathname: `/${name}` }).href;
  return {
    urls: { owner },
    async [Symbol.asyncDispose]() {
      await root.query(`drop database ${root.escapeIdentifier(name)} with (force)`);
      await root.end();
    },
  };
}

async function runPsql(url: string, files: string[]): Promise<void> {
  const args = files.flatMap((file) => ["--file", path.join(directory, file)]);
  const options = ["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--single-transaction"];
  try {
    await promisify(execFile)("psql", [url, ...options, ...args], { timeout: 60_000 });
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") {
      throw new Error(
        "Cannot check the migrations with psql: it is not installed (postgresql-client); " +
          "CALLORA_TEST_WITHOUT_PSQL=1 leaves this test out",
      );
    }
    throw error;
  }
}
