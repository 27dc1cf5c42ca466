import { checkTools } from "./edge/processes.ts";
import { compared, type Figure, median } from "./figure.ts";
import { measureExact } from "./gateway/exact.ts";
import { measureLatency } from "./gateway/latency.ts";
import { type CallTarget, throughput } from "./gateway/load.ts";
import { measureMemory } from "./gateway/memory.ts";
import { checkNginx, startNginxProxy } from "./gateway/nginx.ts";
import { type Served, startFastifyProxy } from "./gateway/servers.ts";
import { cpuSeconds } from "./gateway/usage.ts";
import { type GatewayWorld, openGatewayWorld } from "./gateway/world.ts";

/** In the order of a round: what is compared stands together. */
const names = ["nginx", "durable", "fastify", "async", "upstream"] as const;

type Name = (typeof names)[number];

/** What is called, and the process that has the work. */
type Runs = Record<Name, { target: CallTarget; pid: number }>;

/** Before a process is measured: its code is compiled while it runs, the more of it there is the longer. */
const warmUpRounds = 5;

interface Measured {
  perSecond: number;
  /** Microseconds that the process was running, for a call. */
  cpuUs: number;
  /** The same of all processes of PostgreSQL. */
  databaseUs: number;
}

/**
 * How many calls a second the gateway passes on, with key, limit, lease and metering, beside proxies that do nothing
 * else; what it adds to a call's time, what memory streams take, and whether the last of a credit is spent to the unit.
 *
 * All processes share the cores as the system gives them: so do those of a machine with two.
 */
export async function* gatewayBench({ quick }: { quick: boolean }): AsyncIterable<Figure> {
  await checkTools();
  await checkNginx();
  const [rounds, seconds] = quick ? [3, 1] : [5, 2];
  await using world = await openGatewayWorld();
  {
    await using server = await world.startServer();
    await using fastify = await startFastifyProxy(world.upstream.url);
    await using nginx = await startNginxProxy(world.directory, world.upstream.url);
    const consumer = await world.makeConsumer(server);
    const plain = ({ url, pid }: Served) => ({
      target: { url: `${url}/items/1`, secret: consumer.secret },
      pid,
    });
    const ours = (delivery: "durable" | "async") => ({
      target: world.target(server, delivery, consumer),
      pid: server.pid,
    });
    const runs: Runs = {
      nginx: plain(nginx),
      durable: ours("durable"),
      fastify: plain(fastify),
      async: ours("async"),
      upstream: plain(world.upstream),
    };
    const measured = await measureThroughput(world, runs, { rounds, seconds });
    yield* throughputFigures(measured);
    yield* cpuFigures(measured);
    const rates = {
      durable: Math.round(median(measured.durable.map(({ perSecond }) => perSecond)) / 2),
      async: Math.round(median(measured.async.map(({ perSecond }) => perSecond)) / 2),
    };
    const direct = runs.upstream.target;
    const targets = { durable: runs.durable.target, async: runs.async.target, direct };
    yield* await measureLatency(world, { targets, rates, rounds, seconds });
  }
  yield* await measureExact(world);
  yield await measureMemory(world, quick ? 200 : 1_000);
}

async function measureThroughput(
  world: GatewayWorld,
  runs: Runs,
  { rounds, seconds }: { rounds: number; seconds: number },
): Promise<Record<Name, Measured[]>> {
  const measured = Object.fromEntries(names.map((name) => [name, [] as Measured[]])) as Record<
    Name,
    Measured[]
  >;
  for (const name of names) {
    await throughput(runs[name].target, warmUpRounds * seconds);
  }
  for (let done = 0; done < rounds; done++) {
    for (const name of names) {
      // What the run before has left in the journal is not the work of the next.
      await world.untilApplied();
      measured[name].push(await measureRun(world, runs[name], seconds));
    }
  }
  return measured;
}

async function measureRun(
  { postgresPid }: GatewayWorld,
  { target, pid }: Runs[Name],
  seconds: number,
): Promise<Measured> {
  const before = [await cpuSeconds(pid), await cpuSeconds(postgresPid)] as const;
  const perSecond = await throughput(target, seconds);
  const after = [await cpuSeconds(pid), await cpuSeconds(postgresPid)] as const;
  const toUs = 1_000_000 / (perSecond * seconds);
  return {
    perSecond,
    cpuUs: (after[0] - before[0]) * toUs,
    databaseUs: (after[1] - before[1]) * toUs,
  };
}

function throughputFigures(measured: Record<Name, Measured[]>): Figure[] {
  const rates = (name: Name) => measured[name].map(({ perSecond }) => perSecond);
  const figure = (what: string, [ours, theirs]: [Name, Name], peer: string, atLeast: number) =>
    compared(what, {
      unit: "req/s",
      peer,
      ours: rates(ours),
      theirs: rates(theirs),
      bar: { of: "ratio", limit: "at least", at: atLeast },
    });
  const fastify = "@fastify/http-proxy";
  const nginx = "nginx proxy_pass, one worker";
  const fastest = median(rates("nginx")) > median(rates("fastify")) ? "nginx" : "fastify";
  return [
    figure("the upstream alone", ["upstream", fastest], `the fastest proxy, ${fastest}`, 2),
    figure("small JSON, durable", ["durable", "fastify"], fastify, 1),
    figure("small JSON, async", ["async", "fastify"], fastify, 1.2),
    figure("small JSON, durable", ["durable", "nginx"], nginx, 0.35),
    figure("small JSON, async", ["async", "nginx"], nginx, 0.35),
  ];
}

/** For information: what a call takes of the cores. */
function cpuFigures(measured: Record<Name, Measured[]>): Figure[] {
  const figure = (what: string, name: Name, of: "cpuUs" | "databaseUs") =>
    compared(what, {
      unit: "µs",
      peer: "that of @fastify/http-proxy",
      ours: measured[name].map((run) => run[of]),
      theirs: measured.fastify.map(({ cpuUs }) => cpuUs),
    });
  return [
    figure("CPU of the server for a durable call", "durable", "cpuUs"),
    figure("CPU of PostgreSQL for a durable call", "durable", "databaseUs"),
    figure("CPU of the server for an async call", "async", "cpuUs"),
    figure("CPU of PostgreSQL for an async call", "async", "databaseUs"),
    figure("CPU of nginx for a call", "nginx", "cpuUs"),
  ];
}
