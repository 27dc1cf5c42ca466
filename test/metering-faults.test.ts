import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { until } from "./support/app.ts";
import { openBlackHole } from "./support/black-hole.ts";
import { openProving, type Proving, type Supervised } from "./support/faults.ts";
import type { Verdict } from "./support/load-oracle.ts";
import { seeded } from "./support/seeded.ts";
import { mountSmallDisk } from "./support/small-disk.ts";

const kills = Number(process.env.CALLORA_KILLS ?? 30);
const seed = Number(process.env.CALLORA_SEED ?? Math.floor(Math.random() * 2 ** 31));
/** Half a minute in the long run. */
const awayMs = kills >= 300 ? 30_000 : 6_000;
/** How long everything may take to work again after a fault. */
const recoverMsMax = 30_000;

const faults = [
  {
    name: "kill -9 of the server",
    share: 0.6,
    strike: (_: Proving, server: Supervised) => server.signal("SIGKILL"),
  },
  {
    name: "kill -9 of the postmaster",
    share: 0.2,
    strike: ({ postgres }: Proving) => process.kill(postgres.pid, "SIGKILL"),
  },
  {
    // What `pg_ctl stop -m immediate` sends.
    name: "immediate stop of PostgreSQL",
    share: 0.2,
    strike: ({ postgres }: Proving) => process.kill(postgres.pid, "SIGQUIT"),
  },
] as const;

test("whatever is killed, what was acknowledged counts once", {
  timeout: 120_000 + kills * 8_000,
}, async () => {
  const random = seeded(seed);
  await using proving = await openProving();
  const servers = [await proving.serve(), await proving.serve()] as const;
  const load = proving.load({ urls: servers.map(({ url }) => url), seed });
  const struck: Strike[] = [];

  await load.acknowledgement(recoverMsMax);
  for (let kill = 0; kill < kills; kill++) {
    if (kill % 3 === 0) {
      await proving.putMalformed();
    }
    await sleep(50 + random() * 1_450);
    const fault = pickFault(random());
    fault.strike(proving, random() < 0.5 ? servers[0] : servers[1]);
    const begin = performance.now();
    await load.acknowledgement(recoverMsMax);
    struck.push({ name: fault.name, recoverMs: performance.now() - begin });
  }
  await load.finish();
  const verdict = await proving.judge();

  console.log(report(struck, verdict));
  expect(verdict.problems, `seed ${seed}`).toEqual([]);
  expect(verdict.acknowledged).toBeGreaterThan(kills * 10);
  expect(verdict.duplicates).toBeGreaterThan(0);
});

test("a database that is away is waited for or refused, never taken for there", {
  timeout: 120_000 + awayMs,
}, async () => {
  await using proving = await openProving();
  await using way = await openBlackHole(proving.urls.app);
  const { superuser, app, worker, owner } = proving.urls;
  const server = await proving.serve({
    superuser,
    app: way.through(app),
    worker: way.through(worker),
    owner: way.through(owner),
  });
  const load = proving.load({ urls: [server.url], seed });
  await load.acknowledgement(recoverMsMax);

  const before = load.progress();
  const awaySinceMs = Date.now();
  way.swallow();
  await sleep(awayMs);
  await until(() => load.progress().failed > before.failed, recoverMsMax);
  const after = load.progress();
  way.release();

  // What was committed before may still be acknowledged, when its client waits for its projection.
  expect(after.latestSentMs).toBeLessThanOrEqual(awaySinceMs);
  await load.acknowledgement(recoverMsMax);
  await load.finish();
  const verdict = await proving.judge();
  expect(verdict.problems, `seed ${seed}`).toEqual([]);
  expect(server.starts).toBe(1);
});

test("a full disk loses nothing that was acknowledged", { timeout: 120_000 }, async ({ skip }) => {
  const mounted = await mountSmallDisk({ megabytes: 400 });
  if (typeof mounted === "string") {
    return skip(`Cannot mount a small disk: ${mounted}`);
  }
  await using disk = mounted;
  await using proving = await openProving({ parent: disk.path });
  const server = await proving.serve();
  const load = proving.load({ urls: [server.url], seed });
  await load.acknowledgement(recoverMsMax);

  await disk.fill();
  const before = load.progress();
  await until(() => load.progress().failed > before.failed + 4, recoverMsMax);
  await disk.free();

  await load.acknowledgement(recoverMsMax);
  await load.finish();
  const verdict = await proving.judge();
  expect(verdict.problems, `seed ${seed}`).toEqual([]);
});

test("what is lost, doubled or changed is found", { timeout: 120_000 }, async () => {
  await using proving = await openProving();
  const server = await proving.serve();
  const load = proving.load({ urls: [server.url], seed });
  await proving.putMalformed();
  for (let batch = 0; batch < 5; batch++) {
    await load.acknowledgement(recoverMsMax);
  }
  await load.finish();
  expect((await proving.judge()).problems, `seed ${seed}`).toEqual([]);
  const one = "(select ctid from usage_events where charged_nanos > 0 limit 1)";
  const tampering = {
    "an event that is lost": `delete from usage_events where ctid = ${one}`,
    "an event that nobody sent": `update usage_events set id = 'c999999' where ctid = ${one}`,
    "another event under the identity": `update usage_events set endpoint = 'GET /0/7' where ctid = ${one}`,
    "a charge that is wrong": `update usage_events set charged_nanos = charged_nanos + 1 where ctid = ${one}`,
    "a repeat that is not counted": "update usage_events set duplicates = 0",
    "a kept event that is gone": "delete from usage_quarantine where reason = 'MALFORMED'",
    "a roll-up":
      "update usage_rollups set charged_nanos = charged_nanos + 1 where ctid = (select min(ctid) from usage_rollups)",
    "a developer's roll-up":
      "update revenue_rollups set revenue_nanos = revenue_nanos - 1 where ctid = (select min(ctid) from revenue_rollups where revenue_nanos > 0)",
    "a transfer":
      "delete from ledger_transfers where ctid = (select min(ctid) from ledger_transfers where source_type = 'usage')",
    "a consumer's balance":
      "update ledger_accounts set debits_nanos = debits_nanos + 1 where ctid = (select min(ctid) from ledger_accounts where kind = 'consumer')",
    "a developer's balance":
      "update ledger_accounts set credits_nanos = credits_nanos + 1 where ctid = (select min(ctid) from ledger_accounts where kind = 'payable')",
  };
  for (const [what, statement] of Object.entries(tampering)) {
    expect((await proving.judge(statement)).problems, what).not.toEqual([]);
  }
});

function pickFault(chance: number) {
  let share = 0;
  const found = faults.find((fault) => {
    share += fault.share;
    return chance < share;
  });
  return found ?? faults[0];
}

interface Strike {
  name: string;
  /** From the fault until something that was sent after it is acknowledged. */
  recoverMs: number;
}

function report(struck: readonly Strike[], verdict: Verdict): string {
  const lines = [...Map.groupBy(struck, ({ name }) => name)].map(([name, strikes]) => {
    const slowest = Math.max(...strikes.map(({ recoverMs }) => recoverMs));
    return `${strikes.length} x ${name}, recovered in at most ${Math.round(slowest)} ms`;
  });
  const { acknowledged, applied, duplicates, quarantined, sums, problems } = verdict;
  const bound = ((3 / kills) * 100).toFixed(1);
  return [
    `Seed ${seed}, n = ${kills} kills:`,
    ...lines,
    `${acknowledged} events acknowledged, ${applied} applied, ${duplicates} duplicates, ` +
      `${quarantined} quarantined, ${sums.events} nanos everywhere, ${problems.length} problems`,
    `Without a loss in n kills, fewer than 3/n = ${bound} % of kills lose anything (95 %)`,
  ].join("\n");
}
