import type { ChildProcess } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";
import { test as base, describe, expect, inject } from "vitest";
import { must, until } from "./support/app.ts";
import { openBlackHole } from "./support/black-hole.ts";
import { createDatabase, type TestDatabase } from "./support/cluster.ts";
import { queryAll } from "./support/query.ts";
import {
  askProcess,
  revokeAt,
  startTrustProcess,
  type TrustProcess,
} from "./support/trust-processes.ts";

/** How long Revoke may wait after its commit, with what this machine's load adds to it. */
const revokeMsMax = 1_000 + 250;
const timeout = 60_000;
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

/** What happens to the third process while keys are revoked at the first. */
interface Fault {
  name: string;
  /** Which of its connections go by the way that can swallow them. */
  ways: readonly ("worker" | "listen")[];
  isStopped: boolean;
}

const faults: Fault[] = [
  { name: "stopped with SIGSTOP", ways: [], isStopped: true },
  { name: "deaf: its LISTEN connection black-holed", ways: ["listen"], isStopped: false },
  {
    name: "cut off: all its connections black-holed",
    ways: ["listen", "worker"],
    isStopped: false,
  },
  { name: "stopped and deaf", ways: ["listen"], isStopped: true },
];

describe("no question that begins after Revoke returned is answered with yes", () => {
  test.for(faults)("with a process $name", { timeout }, async (fault, { database }) => {
    const { worker } = database.urls;
    await using hole = await openBlackHole(worker);
    const way = (name: "worker" | "listen") =>
      fault.ways.includes(name) ? hole.through(worker) : worker;
    await using first = await startTrustProcess({ workerUrl: worker, listenUrl: worker });
    await using second = await startTrustProcess({ workerUrl: worker, listenUrl: worker });
    await using third = await startTrustProcess({
      workerUrl: way("worker"),
      listenUrl: way("listen"),
    });
    const processes = [first, second, third];
    const keys = await insertKeys(database, `${fault.name} `, rounds);
    const [lasting = ""] = await insertKeys(database, `${fault.name} lasting `, 1);
    await using load = startLoad(processes, [...keys, lasting]);

    for (const [round, key] of keys.entries()) {
      await until(async () => (await askProcess(third, key)) === "accepted");
      // Anywhere between two heartbeats.
      await sleep(Math.random() * 300);
      const revoking = round % 2 === 0 ? undefined : revokeAt(first, key);
      // In every other round the fault comes while the announcement is on its way.
      await sleep(round % 2 === 0 ? 0 : Math.random() * 5);
      begin(fault, hole, third.child);
      const settledMs = await (revoking ?? revokeAt(first, key));
      load.revoked(key);
      // Those that wait for a process that is stopped are the first that it finds when it goes on.
      const questions = Array.from({ length: 20 }, () => load.ask(third, key));
      await sleep(100);
      if (fault.isStopped) third.child.kill("SIGCONT");
      await sleep(100);
      hole.release();
      await Promise.all(questions);
      await until(async () => (await askProcess(third, lasting)) === "accepted");
      await sleep(150);

      expect(settledMs).toBeLessThan(revokeMsMax);
    }

    const { lies, answered } = await load.stop();
    expect(lies).toEqual([]);
    for (const process of processes) {
      expect(must(answered.get(process))).toBeGreaterThan(1_000);
    }
  });
});

test("Revoke waits for a killed process once, and for a stopped one not at all", async ({
  database,
}) => {
  const urls = { workerUrl: database.urls.worker, listenUrl: database.urls.worker };
  await queryAll(database.urls.superuser, "delete from processes");
  await using first = await startTrustProcess(urls);
  await using polite = await startTrustProcess(urls);
  await using killed = await startTrustProcess(urls);
  const keys = await insertKeys(database, "ended ", 4);
  const [a = "", b = "", c = "", d = ""] = keys;

  const alive = await revokeAt(first, a);
  await polite.stop();
  const afterStop = await revokeAt(first, b);
  killed.child.kill("SIGKILL");
  const afterKill = await revokeAt(first, c);
  await until(async () => (await countProcesses(database)) === 1);
  const later = await revokeAt(first, d);

  expect(alive).toBeLessThan(500);
  expect(afterStop).toBeLessThan(500);
  expect(afterKill).toBeGreaterThan(600);
  expect(afterKill).toBeLessThan(revokeMsMax);
  expect(later).toBeLessThan(500);
});

/** Stop or cut off a process. */
function begin(fault: Fault, hole: { swallow(): void }, child: ChildProcess): void {
  if (fault.ways.length > 0) {
    hole.swallow();
  }
  if (fault.isStopped) {
    child.kill("SIGSTOP");
  }
}

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

const askersPerProcess = 4;

/** Ask all processes about all keys, again and again, and note every yes to a question that came too late. */
function startLoad(processes: readonly TrustProcess[], keys: readonly string[]) {
  const revokedAt = new Map<string, number>();
  const answered = new Map<TrustProcess, number>();
  const lies: string[] = [];
  let isStopped = false;

  async function ask(process: TrustProcess, key: string) {
    const askedAt = performance.now();
    const word = await askProcess(process, key).catch((error) => {
      // A test that fails kills the processes that are still being asked.
      if (!isStopped) throw error;
    });
    answered.set(process, (answered.get(process) ?? 0) + 1);
    const lateMs = askedAt - (revokedAt.get(key) ?? Number.POSITIVE_INFINITY);
    if (word === "accepted" && lateMs > 0) {
      lies.push(`process ${processes.indexOf(process)}, "${key}", ${lateMs} ms after Revoke`);
    }
  }

  async function askOn(process: TrustProcess, offset: number) {
    for (let count = offset; !isStopped; count++) {
      await ask(process, keys[count % keys.length] ?? "");
      // What is answered from memory comes at once: leave the others a turn.
      await sleep(1);
    }
  }

  const askers = processes.flatMap((process) =>
    Array.from({ length: askersPerProcess }, (_, index) => askOn(process, index)),
  );
  async function stop() {
    isStopped = true;
    await Promise.all(askers);
    return { lies, answered };
  }
  return {
    ask,
    revoked: (key: string) => void revokedAt.set(key, performance.now()),
    stop,
    async [Symbol.asyncDispose]() {
      isStopped = true;
    },
  };
}
