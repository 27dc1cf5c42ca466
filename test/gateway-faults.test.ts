import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { type GatewayLoad, startGatewayLoad } from "./support/gateway-load.ts";
import { tellVerdict } from "./support/gateway-oracle.ts";
import {
  asynchronous,
  commonNanos,
  type GatewayProving,
  openCommonMarket,
  openGatewayProving,
  poor,
  rich,
} from "./support/gateway-proving.ts";
import { seeded } from "./support/seeded.ts";

const kills = Number(process.env.CALLORA_KILLS ?? 10);
const seed = Number(process.env.CALLORA_SEED ?? Math.floor(Math.random() * 2 ** 31));
/** How long it may take until a call is served after a fault. */
const recoverMsMax = 30_000;
/** Replies of asynchronous APIs that one killed process may leave unpaid. */
const asyncPendingMax = 100;

const faults = [
  { name: "kill -9 of a server", share: 0.25 },
  // What has not waited for its event is lost now, if ever.
  { name: "kill -9 of a server amid its replies", share: 0.3 },
  { name: "kill -9 of a server amid replies that do not wait", share: 0.15 },
  { name: "kill -9 of the postmaster", share: 0.15 },
  // What `pg_ctl stop -m immediate` sends.
  { name: "immediate stop of PostgreSQL", share: 0.15 },
] as const;

type Fault = (typeof faults)[number]["name"];

/** Strike, in the case of a server that of the index. */
async function strike(
  fault: Fault,
  { proving, servers }: GatewayProving,
  { server, load }: { server: number; load: GatewayLoad },
): Promise<void> {
  const kill = () => servers[server]?.signal("SIGKILL");
  if (fault === "kill -9 of the postmaster") {
    process.kill(proving.postgres.pid, "SIGKILL");
  } else if (fault === "immediate stop of PostgreSQL") {
    process.kill(proving.postgres.pid, "SIGQUIT");
  } else if (fault === "kill -9 of a server") {
    kill();
  } else {
    const consumer = fault === "kill -9 of a server amid its replies" ? rich : asynchronous;
    await load.amidBurst({ server, consumer }, kill);
  }
}

test("whatever is killed, what is served is paid once, and nothing else is", {
  timeout: 180_000 + kills * 8_000,
}, async () => {
  const random = seeded(seed);
  const env = { GATEWAY_ASYNC_PENDING_MAX: String(asyncPendingMax) };
  await using world = await openGatewayProving({ environments: [env, env, env] });
  const market = await openCommonMarket(world);
  const load = startGatewayLoad({ urls: world.urls, market, seed, pauseMs: 10 });
  const struck: { name: string; recoverMs: number }[] = [];

  await load.served(recoverMsMax);
  for (let kill = 0; kill < kills; kill++) {
    await sleep(50 + random() * 950);
    // Whether it came, when the database dies amid it, its own row says.
    const granted = world
      .grant(market.consumers[poor]?.accountId ?? "", 20n * commonNanos)
      .catch(() => {});
    const fault = pickFault(random());
    const answering = load.answering();
    const server = answering[Math.floor(random() * answering.length)] ?? 0;
    await strike(fault.name, world, { server, load });
    const begin = performance.now();
    await Promise.all([load.served(recoverMsMax), granted]);
    struck.push({ name: fault.name, recoverMs: performance.now() - begin });
  }
  await load.stop();
  const lostMax = asyncPendingMax * kills;
  const { calls } = load;
  const verdict = await world.judge({ market, calls, lostMax });

  console.log(`${report(struck)}\n${tellVerdict(verdict, calls)}`);
  expect(verdict.problems, `seed ${seed}`).toEqual([]);
  expect(verdict.served).toBeGreaterThan(kills * 10);
  // Each kill breaks off what runs, and no more: four calls of each server, and a burst.
  expect(verdict.chargedUnserved.length).toBeLessThanOrEqual(kills * 44);

  for (const [what, statement] of Object.entries(tampering)) {
    const tampered = await world.judge({ market, calls, lostMax }, statement);
    expect(tampered.problems, what).not.toEqual([]);
  }
});

const one = "(select ctid from usage_events where charged_nanos > 0 limit 1)";
const ofConsumer = (kind: string) =>
  `(select min(ctid) from ledger_accounts where kind = '${kind}' and credits_nanos > 0
    and account_id in (select account_id from usage_events))`;

/** What the judge must find. */
const tampering = {
  "an event that is lost": `delete from usage_events where ctid = ${one}`,
  "a charge that is wrong": `update usage_events set charged_nanos = charged_nanos + 1 where ctid = ${one}`,
  "a balance": `update ledger_accounts set debits_nanos = debits_nanos + 1 where ctid = ${ofConsumer("consumer")}`,
  "a developer's balance": `update ledger_accounts set credits_nanos = credits_nanos + 1 where ctid = (select min(ctid) from ledger_accounts where kind = 'payable' and credits_nanos > 0)`,
  escrow: `update ledger_accounts set credits_nanos = credits_nanos + 1 where ctid = ${ofConsumer("lease_escrow")}`,
  "a lease that is open":
    "update credit_leases set state = 'active', fence = null where ctid = (select min(ctid) from credit_leases)",
  "a budget": "update budget_periods set taken_nanos = taken_nanos + 1",
};

function pickFault(chance: number) {
  let share = 0;
  const found = faults.find((fault) => {
    share += fault.share;
    return chance < share;
  });
  return found ?? faults[0];
}

function report(struck: readonly { name: string; recoverMs: number }[]): string {
  const lines = [...Map.groupBy(struck, ({ name }) => name)].map(([name, strikes]) => {
    const slowest = Math.max(...strikes.map(({ recoverMs }) => recoverMs));
    return `${strikes.length} x ${name}, served again after at most ${Math.round(slowest)} ms`;
  });
  const bound = ((3 / kills) * 100).toFixed(1);
  return [
    `Seed ${seed}, n = ${kills} kills:`,
    ...lines,
    `Without a fault in n kills, fewer than 3/n = ${bound} % of kills lose or double anything (95 %)`,
  ].join("\n");
}
