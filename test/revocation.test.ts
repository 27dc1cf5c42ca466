import { test as base, describe, expect, inject } from "vitest";
import { must, until } from "./support/app.ts";
import { createDatabase, type TestDatabase } from "./support/cluster.ts";
import { queryAll } from "./support/query.ts";
import { cutOff, deaf, healthy, revokeUnderLoad, stopped } from "./support/revoke-under-load.ts";
import { askProcess, revokeAt, startTrustProcess } from "./support/trust-processes.ts";

/** How long most Revokes may wait after their commit: for the lease, 900 ms, with what the machine's load adds to it. */
const revokeMsUsual = 2_000;
/** How long any of them may wait: a process that is stopped is not waited for until it goes on. */
const revokeMsMax = 10_000;
const timeout = 120_000;
const rounds = 5;

const test = base.extend<{ $file: { database: TestDatabase } }>({
  database: [
    // biome-ignore lint/correctness/noEmptyPattern: vitest reads the pattern
    async ({}, use) => {
      const database = await createDatabase(inject("cluster"));
      await queryAll(
        database.urls.superuser,
        `create table test_keys (key text primary key, is_revoked boolean not null default false);
         grant select, update on test_keys to callora_worker`,
      );
      await use(database);
      await database.drop();
    },
    { scope: "file" },
  ],
});

const faults = [
  { name: "stopped with SIGSTOP", ...stopped },
  { name: "deaf: its LISTEN connection black-holed", ...deaf },
  { name: "cut off: all its connections black-holed", ...cutOff },
  { name: "stopped and deaf", ...deaf, isStopped: true },
];

describe("no question that begins after Revoke returned is answered with yes", () => {
  test.for(faults)("with a process $name", { timeout }, async (fault, { database }) => {
    const keys = await insertKeys(database, `${fault.name} `, rounds);
    const [lasting = ""] = await insertKeys(database, `${fault.name} lasting `, 1);

    const { lies, answered, revokeMs } = await revokeUnderLoad({
      url: database.urls.worker,
      faults: [healthy, healthy, fault],
      keys,
      lasting,
      ask: askProcess,
      revoke: revokeAt,
    });

    expect(lies).toEqual([]);
    expect(revokeMs.toSorted((a, b) => a - b)[Math.floor(rounds / 2)]).toBeLessThan(revokeMsUsual);
    expect(Math.max(...revokeMs)).toBeLessThan(revokeMsMax);
    expect(Math.min(...answered)).toBeGreaterThan(100);
  });
});

test("Revoke waits for a killed process once, and for a stopped one not at all", {
  timeout,
}, async ({ database }) => {
  const urls = { workerUrl: database.urls.worker, listenUrl: database.urls.worker };
  await queryAll(database.urls.superuser, "delete from processes");
  await using first = await startTrustProcess(urls);
  await using polite = await startTrustProcess(urls);
  await using killed = await startTrustProcess(urls);
  const keys = await insertKeys(database, "ended ", 16);
  // Whoever waits for a process waits each time; a busy machine is not late each time.
  const leastMs = async () => {
    const all: number[] = [];
    for (const key of keys.splice(0, 5)) {
      all.push(await revokeAt(first, key));
    }
    return Math.min(...all);
  };

  const alive = await leastMs();
  await polite.stop();
  const afterStop = await leastMs();
  killed.child.kill("SIGKILL");
  const afterKill = await revokeAt(first, must(keys.pop()));
  await until(async () => (await countProcesses(database)) === 1);
  const later = await leastMs();

  expect(alive).toBeLessThan(500);
  expect(afterStop).toBeLessThan(500);
  expect(afterKill).toBeGreaterThan(600);
  expect(afterKill).toBeLessThan(revokeMsMax);
  expect(later).toBeLessThan(500);
});

async function insertKeys(
  { urls }: TestDatabase,
  prefix: string,
  count: number,
): Promise<string[]> {
  const keys = Array.from({ length: count }, (_, index) => `${prefix}${index}`);
  const values = keys.map((key) => `('${key}')`).join(", ");
  await queryAll(urls.superuser, `insert into test_keys (key) values ${values}`);
  return keys;
}

async function countProcesses({ urls }: TestDatabase): Promise<number> {
  const [row] = await queryAll(urls.superuser, "select count(*)::int as count from processes");
  return Number(row?.count);
}
