import { Agent } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import {
  addCredit,
  type NewCredit,
  priorityDefault,
  promotionMoney,
} from "../src/credits/credit.ts";
import { newId } from "../src/lib/id.ts";
import { until } from "./support/app.ts";
import { openBlackHole } from "./support/black-hole.ts";
import type { Supervised } from "./support/faults.ts";
import { type SeenCall, see, startGatewayLoad, words } from "./support/gateway-load.ts";
import { newConsumer, sellApi } from "./support/gateway-market.ts";
import { tellVerdict } from "./support/gateway-oracle.ts";
import { commonNanos, openCommonMarket, openGatewayProving } from "./support/gateway-proving.ts";
import { metricOf } from "./support/metric.ts";

const kills = Number(process.env.CALLORA_KILLS ?? 10);
const seed = Number(process.env.CALLORA_SEED ?? Math.floor(Math.random() * 2 ** 31));
/** Half a minute in the long run. */
const awayMs = kills >= 300 ? 30_000 : 8_000;
const recoverMsMax = 30_000;
/** Calls at once while the database is away. */
const workers = 30;
/** How long an event is tried to be written down. */
const waitedMsMax = 10_000;
/**
 * The longest that a call waits for a database that is away: 5 s for credit, or for its event 10 s until a last try
 * begins, which the database has 12 s to answer.
 */
const waitMsMax = 50_000;

test("a process that stands still past the end of its lease spends nothing of it, and nothing unpaid", {
  timeout: 240_000,
}, async () => {
  await using holding = await openHolding();
  const { world, market, calls, call, held } = holding;
  const [still, other] = world.servers as [Supervised, Supervised];

  // Two consumers have calls under way, some of whose replies have begun.
  const open = [scant, ample].flatMap((consumer) =>
    (["slow", "slow", "slow", "stream", "stream"] as const).map((kind) =>
      call(still, consumer, kind),
    ),
  );
  await until(() => held.length === 10, recoverMsMax);
  still.signal("SIGSTOP");
  await until(() => leasesAreOver(world, market.consumers[scant]?.accountId ?? ""), 60_000);
  // What the lease held is spent by the other process.
  while ((await call(other, scant, "plain")).status !== 402) {}
  for (const rest of [...held]) {
    rest();
  }
  still.signal("SIGCONT");
  const late = await Promise.all(open);
  const after = await call(still, ample, "plain");
  expect(still.starts).toBe(1);
  await stopAmidCalls(holding, other);
  await stopAmidEvents(holding, still);
  const verdict = await world.judge({ market, calls });

  console.log(`Seed ${seed}: ${words(late)}\n${tellVerdict(verdict, calls)}`);
  expect(verdict.problems).toEqual([]);
  expect(verdict.chargedUnserved).toEqual([]);
  const served = calls.filter(({ isWhole, status }) => isWhole && status === 200);
  expect(served.filter(({ consumer }) => consumer === scant)).toHaveLength(scantCalls);
  expect(late.filter((one) => one.consumer === scant && served.includes(one))).toEqual([]);
  expect(after).toMatchObject({ isWhole: true, status: 200 });
});

/** A process that is told to stop lets its calls run for a while, then cuts them. */
async function stopAmidCalls({ call, held }: Holding, server: Supervised): Promise<void> {
  const running = [call(server, ample, "slow"), call(server, ample, "stream")];
  await until(() => held.length === 2, recoverMsMax);
  server.signal("SIGTERM");
  const [slow, stream] = await Promise.all(running);

  expect(slow).toMatchObject({ isWhole: true, status: 503, reason: "SERVER_STOPPING" });
  expect(stream).toMatchObject({ isWhole: false, status: 200 });
}

/** It writes down what it has answered before it ends, though the journal takes nothing for a while. */
async function stopAmidEvents({ world, call }: Holding, server: Supervised): Promise<void> {
  const change = (text: string) => world.proving.superuser((client) => client.query(text));
  await call(server, hasty, "plain");
  // While one waits for its event for long, no other reply is sent before its own.
  await until(async () => (await metricOf(server.url, "callora_gateway_async_pending")) === 0);
  await change("revoke insert on usage_journal from callora_worker");
  const answered = await call(server, hasty, "plain");
  server.signal("SIGTERM");
  await sleep(1_000);
  await change("grant insert on usage_journal to callora_worker");
  await until(() => server.starts === 2, recoverMsMax);

  expect(answered).toMatchObject({ isWhole: true, status: 200 });
}

/** Consumers: one with little credit, one with much, one whose replies do not wait for their events. */
const [scant, ample, hasty] = [0, 1, 2] as const;
const scantCalls = 40;

type Holding = Awaited<ReturnType<typeof openHolding>>;

/** Two servers, and an upstream that keeps all calls waiting but the plain ones. */
async function openHolding() {
  const held: (() => void)[] = [];
  const world = await openGatewayProving({
    environments: [{}, { SHUTDOWN_GRACE_MS: "500" }],
    handler: (incoming, response) => {
      const [, kind] = (incoming.url ?? "").split("/");
      const rest = () => void response.end('{"units":1}');
      if (kind === "plain") {
        rest();
        return;
      }
      if (kind === "stream") {
        response.write(" ");
      }
      held.push(rest);
      response.once("close", () => held.splice(held.indexOf(rest), 1));
    },
  });
  const { place, upstreamUrl } = world;
  const apis = await Promise.all([
    sellApi(place, upstreamUrl, { callNanos: commonNanos }),
    sellApi(place, upstreamUrl, { callNanos: commonNanos, isAsync: true }),
  ]);
  const consumers = await Promise.all(
    [scantCalls, 4_000, 4_000].map((count, index) =>
      newConsumer(place, {
        creditNanos: BigInt(count) * commonNanos,
        apis: [index === hasty ? 1 : 0],
      }),
    ),
  );
  const market = { apis, consumers };
  const agent = new Agent({ keepAlive: true });
  const calls: SeenCall[] = [];
  let n = 0;
  return {
    world,
    market,
    held,
    calls,
    async call(server: Supervised, consumer: number, kind: SeenCall["kind"]) {
      const api = consumer === hasty ? 1 : 0;
      const one = { id: `still-${seed}-${n}`, n: n++, consumer, api, kind };
      const seen = await see(server.url, { ...one, market, agent });
      calls.push(seen);
      return seen;
    },
    async [Symbol.asyncDispose]() {
      agent.destroy();
      await world[Symbol.asyncDispose]();
    },
  };
}

test("with the database away calls wait for a bounded time or are refused, and are charged once if they are served", {
  timeout: 240_000 + awayMs,
}, async () => {
  await using world = await openGatewayProving({ environments: [{}] });
  const { superuser, app, worker, owner } = world.proving.urls;
  await using way = await openBlackHole(app);
  const far = await world.proving.serve({
    superuser,
    app: way.through(app),
    worker: way.through(worker),
    owner: way.through(owner),
  });
  const market = await openCommonMarket(world);
  const load = startGatewayLoad({ urls: [far.url], market, seed, workers, pauseMs: 600 });
  await load.served(recoverMsMax);

  way.swallow();
  const begin = performance.now();
  await sleep(awayMs);
  const end = performance.now();
  way.release();

  await load.served(recoverMsMax);
  await load.stop();
  const { calls } = load;
  const verdict = await world.judge({ market, calls, lostMax: 0 });
  const during = calls.filter(({ begunMs, endedMs }) => endedMs > begin && begunMs < end);
  console.log(
    `Seed ${seed}: the database was away for ${awayMs} ms. Calls of that time: ${words(during)}; ` +
      `the slowest took ${Math.round(Math.max(...during.map(waited)))} ms\n${tellVerdict(verdict, calls)}`,
  );
  expect(verdict.problems, `seed ${seed}`).toEqual([]);
  // Of a commit whose answer never came nobody knew, if that took longer than calls wait: at most what ran then.
  const inDoubt = verdict.chargedUnserved.filter(({ reason }) => reason === "CHARGE_UNKNOWN");
  expect(verdict.chargedUnserved).toEqual(inDoubt);
  expect(inDoubt.length).toBeLessThanOrEqual(awayMs > waitedMsMax ? workers : 0);
  expect(Math.max(...during.map(waited))).toBeLessThan(waitMsMax);
  expect(far.starts).toBe(1);
});

test("processes whose clocks are hours apart, and jump, charge each call once", {
  timeout: 240_000,
}, async () => {
  const hour = 3_600_000;
  const clocks = [0, hour, -hour].map((offset) => ({
    CALLORA_TEST_CLOCK_OFFSET_MS: String(offset),
  }));
  await using world = await openGatewayProving({ environments: clocks });
  const market = await openCommonMarket(world);
  const load = startGatewayLoad({ urls: world.urls, market, seed });
  await load.served(recoverMsMax);
  // To one of the clocks it is over already.
  const grantId = await grantUntil(world, new Date(Date.now() + hour / 2));
  // Leases are renewed, and the loops look at them and at grants.
  await sleep(renewedMs);
  const lost = await lostLeases(world.urls);

  for (const [index, clock] of clocks.entries()) {
    // It comes back with the clock of before its jump two hours away.
    clock.CALLORA_TEST_CLOCK_OFFSET_MS = String((1 - index) * 2 * hour);
    world.servers[index]?.signal("SIGKILL");
    await load.served(recoverMsMax);
  }
  await until(() => world.servers.every(({ starts }) => starts === 2), recoverMsMax);
  await load.served(recoverMsMax);
  await sleep(renewedMs);
  const lostAfter = await lostLeases(world.urls);
  await load.stop();
  const { calls } = load;
  const verdict = await world.judge({ market, calls, lostMax: 6_000 });

  console.log(`Seed ${seed}: three clocks, three jumps\n${tellVerdict(verdict, calls)}`);
  expect(verdict.problems, `seed ${seed}`).toEqual([]);
  // A process that has to wait for its core may lose one; by a clock that is ahead each is lost within a second.
  expect(lost).toBeLessThanOrEqual(lostMax);
  expect(lostAfter).toBeLessThanOrEqual(lostMax);
  const { rows } = await world.proving.superuser((client) =>
    client.query("select state, returned_nanos from credit_grants where id = $1", [grantId]),
  );
  expect(rows).toEqual([{ state: "open", returned_nanos: "0" }]);
});

/** Longer than processes wait until they renew their leases. */
const renewedMs = 5_000;
const lostMax = 2;

/** How many leases were over before their processes gave them back. */
async function lostLeases(urls: readonly string[]): Promise<number> {
  const counts = await Promise.all(urls.map((url) => metricOf(url, "callora_leases_lost_total")));
  return counts.reduce((sum, count) => sum + count, 0);
}

/** Grant somebody who calls nothing credit that ends. Returns the grant's id. */
async function grantUntil(
  { place }: Awaited<ReturnType<typeof openGatewayProving>>,
  expireAt: Date,
): Promise<string> {
  const now = new Date();
  const grantId = newId("grt", now);
  const credit: NewCredit = {
    ...{ accountId: newId("acc", now), mode: "live", kind: "promotion", amountNanos: 7n, grantId },
    ...{ from: promotionMoney, priority: priorityDefault, expireAt, purchaseId: "", note: "" },
  };
  await place.db.systemTransaction((tx) => addCredit(tx, credit, now));
  return grantId;
}

const waited = ({ begunMs, endedMs }: SeenCall) => endedMs - begunMs;

/** Whether no event may name a lease of the account any more. */
function leasesAreOver(
  { proving }: Awaited<ReturnType<typeof openGatewayProving>>,
  accountId: string,
): Promise<boolean> {
  return proving.superuser(async (client) => {
    const { rows } = await client.query(
      "select count(*) filter (where state <> 'closed')::int as open from credit_leases where account_id = $1",
      [accountId],
    );
    return rows[0].open === 0;
  });
}
