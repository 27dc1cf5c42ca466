import { setImmediate as turned } from "node:timers/promises";
import { sql } from "slonik";
import { test as base, expect, inject, onTestFinished } from "vitest";
import { until } from "../../test/support/app.ts";
import { openBlackHole } from "../../test/support/black-hole.ts";
import { createDatabase, type TestDatabase } from "../../test/support/cluster.ts";
import { queryAll } from "../../test/support/query.ts";
import { leaseMsDefault } from "./lease.ts";
import { nothing, openPool, type Pool, type Tx } from "./pool.ts";
import { openTrust, type Trust } from "./trust.ts";

const topic = "test_key";

const test = base.extend<{ $file: { database: TestDatabase; pool: Pool } }>({
  database: [
    // biome-ignore lint/correctness/noEmptyPattern: vitest reads the pattern
    async ({}, use) => {
      const database = await createDatabase(inject("cluster"));
      await use(database);
      await database.drop();
    },
    { scope: "file" },
  ],
  pool: [
    async ({ database }, use) => {
      const url = database.urls.worker;
      const pool = await openPool({ url, role: "callora_worker", connectionsMax: 10 });
      await use(pool);
      await pool.end();
    },
    { scope: "file" },
  ],
});

// No machine is so busy that such a lease is lost. Where its length counts, tests take a shorter one.
const longLeaseMs = 30_000;

/** A process's trust over a table in memory: what it loads is what `held` says at that moment. */
async function open(pool: Pool, listenUrl: string, leaseMs = longLeaseMs) {
  const held = new Map<string, number>();
  const errors: unknown[] = [];
  const db = { systemTransaction: <T>(work: (tx: Tx) => Promise<T>) => pool.transaction(work) };
  const onError = (error: unknown) => errors.push(error);
  const trust = await openTrust({ db, listenUrl, leaseMs, onError });
  onTestFinished(() => trust.close());
  let loads = 0;
  const memory = trust.remember<number>(topic, {
    entriesMax: 10_000,
    async load(keys) {
      loads += 1;
      await db.systemTransaction((tx) => tx.query(sql.type(nothing)`select`));
      return new Map([...held].filter(([key]) => keys.includes(key)));
    },
  });
  return { trust, memory, held, errors, db, loads: () => loads };
}

/** Announce keys in a transaction, and wait until everybody has forgotten them. */
async function announce({ trust, db }: Awaited<ReturnType<typeof open>>, keys: string[]) {
  const epoch = await db.systemTransaction((tx) => trust.announce(tx, topic, keys));
  await trust.settled(epoch);
}

const isHeld = ({ trust }: { trust: Trust }) => trust.stats().isHeld;

test("an announcement is forgotten everywhere when it is settled", async ({ database, pool }) => {
  const here = await open(pool, database.urls.worker);
  const there = await open(pool, database.urls.worker);
  const told: string[] = [];
  there.memory.onForgotten((key) => told.push(key));
  const keys = Array.from({ length: 1_000 }, (_, index) => `a rather long key ${index} é`);
  for (const key of keys) there.held.set(key, 1);
  await Promise.all(keys.map((key) => there.memory.get(key)));
  const loadsBefore = there.loads();
  expect(there.memory.get(keys[0] ?? "")).toBe(1);

  for (const key of keys) there.held.set(key, 2);
  await announce(here, keys);

  expect(await Promise.all(keys.map((key) => there.memory.get(key)))).toEqual(keys.map(() => 2));
  expect(told).toEqual(keys);
  expect(there.loads() - loadsBefore).toBeLessThanOrEqual(3);
  expect([here.trust.stats().losses, there.trust.stats().losses]).toEqual([0, 0]);
});

test("what is rolled back is not announced", async ({ database, pool }) => {
  const here = await open(pool, database.urls.worker);
  here.held.set("a", 1);
  await here.memory.get("a");
  const loads = here.loads();

  const failed = here.db.systemTransaction(async (tx) => {
    await here.trust.announce(tx, topic, ["a"]);
    throw new Error("rolled back");
  });
  await expect(failed).rejects.toThrow("rolled back");
  await announce(here, ["b"]);

  expect(here.memory.get("a")).toBe(1);
  expect(here.loads()).toBe(loads);
});

test("the role that serves tenants may announce, and only count up", async ({ database, pool }) => {
  const here = await open(pool, database.urls.worker);
  const url = database.urls.app;
  const app = await openPool({ url, role: "callora_app", connectionsMax: 1 });
  onTestFinished(() => app.end());
  here.held.set("a", 1);
  await here.memory.get("a");

  const epoch = await app.transaction((tx) => here.trust.announce(tx, topic, ["a"]));
  await here.trust.settled(epoch);
  expect(here.memory.get("a")).toBeInstanceOf(Promise);
  for (const [by, text, reason] of [
    [url, "update trust_epoch set epoch = epoch - 1", "only counts up"],
    [url, "update trust_epoch set epoch = epoch + 2", "only counts up"],
    [url, "select from processes", "permission denied"],
    [database.urls.superuser, "delete from trust_epoch", "append-only"],
  ] as const) {
    await expect(queryAll(by, text)).rejects.toThrow(reason);
  }
});

test("many announcements at a time are all forgotten, and lose nobody's trust", async ({
  database,
  pool,
}) => {
  const here = await open(pool, database.urls.worker);
  const there = await open(pool, database.urls.worker);
  const keys = Array.from({ length: 30 }, (_, index) => `key ${index}`);
  for (const key of keys) there.held.set(key, 1);
  await Promise.all(keys.map((key) => there.memory.get(key)));

  await Promise.all(
    keys.map(async (key, index) => {
      there.held.set(key, 2);
      await announce(index % 2 === 0 ? here : there, [key]);
      expect(await there.memory.get(key)).toBe(2);
    }),
  );

  expect([here.trust.stats().losses, there.trust.stats().losses]).toEqual([0, 0]);
});

test("a connection that is killed is made again, and all from before is forgotten", async ({
  database,
  pool,
}) => {
  const here = await open(pool, database.urls.worker);
  const told: string[] = [];
  here.held.set("a", 1).set("b", 1);
  await Promise.all([here.memory.get("a"), here.memory.get("b")]);
  here.memory.watch("c", () => told.push("c"));
  const listeners = `from pg_stat_activity
     where application_name = 'callora listener' and datname = current_database()`;
  const { superuser } = database.urls;
  // The server may not have seen yet that those of other tests left.
  await until(async () => (await queryAll(superuser, `select ${listeners}`)).length === 1);

  here.held.set("a", 2);
  const kill = `select count(pg_terminate_backend(pid)) as count ${listeners}`;
  const [killed] = await queryAll(superuser, kill);
  await until(() => here.trust.stats().losses === 1);
  const asked = await here.memory.get("a");
  await until(() => isHeld(here));

  expect(killed).toEqual({ count: "1" });
  expect(asked).toBe(2);
  expect(told).toEqual(["c"]);
  expect(here.memory.get("b")).toBeInstanceOf(Promise);
  expect(String(here.errors[0])).toMatch(/terminat/);
});

test("a connection that goes silent is noticed within the lease", async ({ database, pool }) => {
  await using hole = await openBlackHole(database.urls.worker);
  const leaseMs = 3_000;
  const here = await open(pool, hole.through(database.urls.worker), leaseMs);
  here.held.set("a", 1);
  await here.memory.get("a");
  expect(here.memory.get("a")).toBe(1);

  hole.swallow();
  const begun = performance.now();
  let heldMs = 0;
  await until(() => {
    const passedMs = performance.now() - begun;
    heldMs = isHeld(here) ? passedMs : heldMs;
    return !isHeld(here);
  });
  here.held.set("a", 2);
  const asked = await here.memory.get("a");
  const connections = hole.connections;
  await until(() => hole.connections > connections);
  hole.release();
  await until(() => isHeld(here));

  expect(heldMs).toBeLessThan(leaseMs);
  expect(asked).toBe(2);
  expect(await here.memory.get("a")).toBe(2);
});

test("behind a pooler that forgets LISTEN a process never trusts its memory", async ({
  database,
  pool,
}) => {
  await using hole = await openBlackHole(database.urls.worker, (chunk) =>
    Buffer.from(
      chunk.toString("latin1").replace(/listen "\w+"/, (text) => "unlisten *".padEnd(text.length)),
      "latin1",
    ),
  );

  const here = await open(pool, hole.through(database.urls.worker), leaseMsDefault);
  here.held.set("a", 1);
  const first = await here.memory.get("a");
  here.held.set("a", 2);
  const second = await here.memory.get("a");

  expect([first, second]).toEqual([1, 2]);
  expect(isHeld(here)).toBe(false);
  // A connection that is late is another reason, and is tried again.
  await until(() => here.errors.map(String).join().includes("its own notification"));
});

test("a process whose row was deleted forgets everything and enters again", async ({
  database,
  pool,
}) => {
  const here = await open(pool, database.urls.worker);
  here.held.set("a", 1);
  await here.memory.get("a");

  await queryAll(database.urls.superuser, "delete from processes");
  here.held.set("a", 2);
  await until(() => here.trust.stats().losses === 1 && isHeld(here));

  expect(await here.memory.get("a")).toBe(2);
  const rows = await queryAll(database.urls.superuser, "select id from processes");
  expect(rows).toHaveLength(1);
});

test("a notification that never came makes it forget everything", async ({ database, pool }) => {
  const here = await open(pool, database.urls.worker);
  const told = Promise.withResolvers<void>();
  here.held.set("a", 1);
  await here.memory.get("a");
  here.memory.watch("a", told.resolve);

  here.held.set("a", 2);
  await queryAll(database.urls.superuser, "update trust_epoch set epoch = epoch + 1");
  await told.promise;

  expect(await here.memory.get("a")).toBe(2);
  await announce(here, ["b"]);
  expect(here.trust.stats()).toMatchObject({ losses: 0, isHeld: true });
});

test("an epoch that is skipped makes it forget everything", async ({ database, pool }) => {
  const here = await open(pool, database.urls.worker);
  here.held.set("a", 1);
  await here.memory.get("a");

  here.held.set("a", 2);
  const epoch = await here.db.systemTransaction(async (tx) => {
    await tx.query(sql.type(nothing)`update trust_epoch set epoch = epoch + 1`);
    return here.trust.announce(tx, topic, ["b"]);
  });
  await here.trust.settled(epoch);

  expect(await here.memory.get("a")).toBe(2);
});

test("what stays open asks again, lease after lease, where no announcement is heard", async ({
  database,
  pool,
}) => {
  await using hole = await openBlackHole(database.urls.worker);
  const here = await open(pool, database.urls.worker, leaseMsDefault);
  const deaf = await open(pool, hole.through(database.urls.worker), leaseMsDefault);
  for (const { held } of [here, deaf]) held.set("a", 1);
  const answers: (number | null)[] = [];
  const ask = async () => answers.push(await deaf.memory.get("a"));
  deaf.memory.watch("a", () => void ask());
  hole.swallow();
  await until(() => answers.length > 0);

  for (const { held } of [here, deaf]) held.delete("a");
  await announce(here, ["a"]);

  await until(() => answers.at(-1) === null);
  expect(isHeld(deaf)).toBe(false);
  hole.release();
});

test("without the database waiting ends with the lease", async ({ database }) => {
  const url = database.urls.worker;
  const dead = await openPool({ url, role: "callora_worker", connectionsMax: 1 });
  await dead.end();
  const here = await open(dead, url, leaseMsDefault);

  const begun = performance.now();
  // Timers end in their order, however late.
  const late = new Promise((resolve) => setTimeout(resolve, leaseMsDefault + 200, "late"));
  const ended = here.trust.settled(10n ** 18n).then(() => performance.now() - begun);

  expect(await Promise.race([ended, late])).toBeGreaterThan(leaseMsDefault - 10);
});

test("what was asked in trust and cannot be loaded any more is refused", async ({ database }) => {
  await using hole = await openBlackHole(database.urls.worker);
  const url = hole.through(database.urls.worker);
  const pool = await openPool({ url, role: "callora_worker", connectionsMax: 2 });
  const here = await open(pool, url, leaseMsDefault);
  here.held.set("a", 1);
  await here.memory.get("a");

  hole.swallow();
  await until(() => !isHeld(here));
  const begun = performance.now();

  await expect(here.memory.get("a")).rejects.toMatchObject({ name: "TrustLostError" });
  // In trust a load may take 5 s.
  expect(performance.now() - begun).toBeLessThan(4_000);
  const again = Promise.race([here.memory.get("b"), turned("it waits")]);
  await expect(again).rejects.toMatchObject({ name: "TrustLostError" });
  expect(here.trust.stats()).toMatchObject({ isHeld: false, refusals: 2 });
  hole.release();
  await until(() => isHeld(here));
  expect(await here.memory.get("a")).toBe(1);
  await here.trust.close();
  await pool.end();
});

test("what processes left that ended without a word is swept away, long after", async ({
  database,
  pool,
}) => {
  await queryAll(
    database.urls.superuser,
    `insert into processes (id, acknowledged, lease_end) values
     ('00000000-0000-0000-0000-000000000001', 0, now() - interval '2 minutes'),
     ('00000000-0000-0000-0000-000000000002', 0, now() - interval '30 seconds')`,
  );
  const left = async () => {
    const text = "select id from processes where id::text like '00000000%'";
    return (await queryAll(database.urls.superuser, text)).map(({ id }) => String(id).slice(-1));
  };

  await open(pool, database.urls.worker);
  await until(async () => (await left()).length === 1);

  expect(await left()).toEqual(["2"]);
  await queryAll(database.urls.superuser, "delete from processes");
});

test("a process that stopped is nobody's to wait for", async ({ database, pool }) => {
  const here = await open(pool, database.urls.worker);

  await here.trust.close();

  expect(await queryAll(database.urls.superuser, "select id from processes")).toEqual([]);
  expect(isHeld(here)).toBe(false);
});
