import type pg from "pg";
import { sql } from "slonik";
import { expect } from "vitest";
import { z } from "zod";
import { createDatabase, type Database } from "../src/db/database.ts";
import { openPool, type Pool, type Tx } from "../src/db/pool.ts";
import { newId } from "../src/lib/id.ts";
import { must, type Person } from "./support/app.ts";
import { asSuperuser } from "./support/superuser.ts";
import { tenantRows as rows, type Value } from "./support/tenant-rows.ts";
import { test as base } from "./support/test.ts";

/** Two tenants with a row in every table, and the app's role on a single connection. */
interface Fixtures {
  $file: {
    tenants: { mine: Person; theirs: Person };
    single: { db: Database; pool: Pool };
  };
}

const test = base.extend<Fixtures>({
  tenants: [
    async ({ app }, use) => {
      const [mine, theirs] = [await app.person("DEVELOPER"), await app.person("DEVELOPER")];
      for (const { accountId } of [mine, theirs]) {
        for (const [table, row] of Object.entries(rows)) {
          await asSuperuser(app, (client) => insert(client, table, row(accountId)));
        }
      }
      await use({ mine, theirs });
    },
    { scope: "file" },
  ],
  single: [
    async ({ app }, use) => {
      const options = { url: app.urls.app, role: "callora_app", connectionsMax: 1 } as const;
      const pool = await openPool(options);
      const db = createDatabase({ app: pool, worker: pool, appendAudit: async () => {} });
      await use({ db, pool });
      await db.close();
    },
    { scope: "file" },
  ],
});

/** Holds nothing of any account: one number, which every account's changes count up. */
const shared = ["trust_epoch"];

/** Views are read like tables. */
const views = ["credit_balances"];

test("every table and view that the app role may read is tried here", async ({ app }) => {
  const { rows: found } = await asSuperuser(app, (client) =>
    client.query(`
      select relname as name from pg_class
      where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v', 'm')
        and has_any_column_privilege('callora_app', oid, 'select, insert, update')
    `),
  );

  const tried = [...Object.keys(rows), ...views];
  expect(found.map((row) => row.name).sort()).toEqual([...tried, ...shared].sort());
});

test.for([...Object.keys(rows), ...views])(
  "without a where, %s shows an account its own rows alone",
  async (table, { app, tenants }) => {
    const { mine, theirs } = tenants;
    if (table === "credit_balances") {
      await app.grant(mine.accountId, 1n);
      await app.grant(theirs.accountId, 1n);
    }

    for (const { accountId } of [mine, theirs]) {
      const read = await app.db.tenantRead(accountId, (tx) => accountsIn(tx, table));
      const written = await app.db.tenantTransaction(tenantOf(accountId), (tx) =>
        accountsIn(tx, table),
      );
      expect(read).toEqual([accountId]);
      expect(written).toEqual([accountId]);
    }
  },
);

test.for([...Object.keys(rows), ...views])(
  "without a tenant, %s shows the app role nothing",
  async (table, { tenants, single }) => {
    expect(tenants).toBeDefined();

    expect(await single.pool.transaction((tx) => accountsIn(tx, table))).toEqual([]);
  },
);

test("one connection that serves many tenants never mixes them up", async ({ tenants, single }) => {
  const { mine, theirs } = tenants;
  const { db, pool } = single;
  const read = (accountId: string) => db.tenantRead(accountId, (tx) => accountsIn(tx, "api_keys"));
  const nobody = () => pool.transaction((tx) => accountsIn(tx, "api_keys"));
  const broken = async (accountId: string) => {
    const work = db.tenantTransaction(tenantOf(accountId), async (tx) => {
      await accountsIn(tx, "api_keys");
      throw new Error("broken off");
    });
    await expect(work).rejects.toThrow("broken off");
  };
  const failed = async (accountId: string) => {
    const work = db.tenantTransaction(tenantOf(accountId), (tx) =>
      tx.query(sql.type(z.object({}))`select 1 / 0`),
    );
    await expect(work).rejects.toThrow();
  };

  for (let round = 0; round < 20; round++) {
    expect(await read(mine.accountId)).toEqual([mine.accountId]);
    expect(await nobody()).toEqual([]);
    await broken(theirs.accountId);
    expect(await nobody()).toEqual([]);
    expect(await read(theirs.accountId)).toEqual([theirs.accountId]);
    await failed(mine.accountId);
    expect(await nobody()).toEqual([]);
  }
  const all = [mine, theirs, mine, theirs, mine, theirs].map(async ({ accountId }) => {
    expect(await read(accountId)).toEqual([accountId]);
    expect(await nobody()).toEqual([]);
  });
  await Promise.all(all);
});

test.for([
  "",
  "acc_1",
  "acc_00000000000000000000000000' or true --",
  "usr_00000000000000000000000000",
])('a transaction for "%s" is not opened: it is no account', async (accountId, { single }) => {
  const work = single.db.tenantRead(accountId, async () => "opened");

  await expect(work).rejects.toThrow("the tenant is not an account id");
});

test.for(Object.keys(rows))(
  "no row of another account can be put into %s",
  async (table, { single, tenants }) => {
    const { mine, theirs } = tenants;
    const row = must(rows[table])(theirs.accountId);
    if (table === "accounts") {
      row.account_id = newId("acc", new Date());
    }

    const work = single.db.tenantRead(mine.accountId, (tx) => insertAs(tx, table, row));

    expect(await sqlStateOf(work)).toBe(denied);
  },
);

test.for(Object.keys(rows))(
  "no row of %s can be given to another account",
  async (table, { single, tenants }) => {
    const { mine, theirs } = tenants;

    const work = single.db.tenantRead(mine.accountId, (tx) =>
      tx.query(sql.type(z.object({}))`
      update ${sql.identifier([table])} set account_id = ${theirs.accountId}
    `),
    );

    expect(await sqlStateOf(work)).toBe(denied);
  },
);

const denied = "42501";

async function accountsIn(tx: Tx, table: string): Promise<string[]> {
  const found = await tx.any(sql.type(z.object({ account_id: z.string() }))`
    select account_id from ${sql.identifier([table])}
  `);
  return [...new Set(found.map((row) => row.account_id))];
}

async function insertAs(tx: Tx, table: string, row: Record<string, Value>): Promise<void> {
  const columns = Object.keys(row).map((column) => sql.identifier([column]));
  await tx.query(sql.type(z.object({}))`
    insert into ${sql.identifier([table])} (${sql.join(columns, sql.fragment`, `)})
    values (${sql.join(Object.values(row), sql.fragment`, `)})
  `);
}

async function insert(client: pg.Client, table: string, row: Record<string, Value>): Promise<void> {
  const places = Object.keys(row).map((_, index) => `$${index + 1}`);
  await client.query(
    `insert into ${table} (${Object.keys(row)}) values (${places}) on conflict do nothing`,
    Object.values(row),
  );
}

async function sqlStateOf(work: Promise<unknown>): Promise<unknown> {
  try {
    await work;
    return "no error";
  } catch (error) {
    for (let cause: unknown = error; cause instanceof Error; cause = cause.cause) {
      if ("code" in cause && typeof cause.code === "string") {
        return cause.code;
      }
    }
    return error;
  }
}

function tenantOf(accountId: string) {
  return { accountId, actor: "x", ip: "", requestId: "x", action: "", audited: () => {} };
}
