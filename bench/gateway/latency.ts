import { randomBytes } from "node:crypto";
import type pg from "pg";
import { type Figure, median, round } from "../figure.ts";
import { type CallTarget, type Latency, latency } from "./load.ts";
import type { Delivery, GatewayWorld } from "./world.ts";

interface Asked {
  targets: Readonly<Record<Delivery | "direct", CallTarget>>;
  /** Calls a second. */
  rates: Readonly<Record<Delivery, number>>;
  rounds: number;
  seconds: number;
}

/** What the gateway adds to the time of a call at half of the load that it takes, beside the call without it. */
export async function measureLatency(world: GatewayWorld, asked: Asked): Promise<Figure[]> {
  await prepareCommits(world.client);
  const durable = await measure(world, asked, "durable");
  const async = await measure(world, asked, "async");
  return [
    {
      ...figure(`added to async calls at ${asked.rates.async} a second, p50`, async, "p50Ms"),
      bar: { of: "value", limit: "at most", at: 1 },
    },
    {
      ...figure(`added to async calls at ${asked.rates.async} a second, p99`, async, "p99Ms"),
      bar: { of: "value", limit: "at most", at: 5 },
    },
    figure(`added to durable calls at ${asked.rates.durable} a second, p50`, durable, "p50Ms"),
    {
      name: "p50 added to durable calls beyond a commit of the run",
      value: round(median(durable.map(({ added, commitMs }) => added.p50Ms - commitMs))),
      unit: "ms",
      peer: "the commit of a row, median",
      peerValue: round(median(durable.map(({ commitMs }) => commitMs))),
      bar: { of: "value", limit: "at most", at: 1.5 },
      n: durable.length,
    },
  ];
}

interface Round {
  added: Latency;
  direct: Latency;
  commitMs: number;
}

async function measure(
  { client, untilApplied }: GatewayWorld,
  { targets, rates, rounds, seconds }: Asked,
  delivery: Delivery,
): Promise<Round[]> {
  const extent = { rate: rates[delivery], seconds };
  const all: Round[] = [];
  for (let done = 0; done < rounds; done++) {
    await untilApplied();
    const commitMs = await measureCommit(client);
    const direct = await latency(targets.direct, extent);
    const ours = await latency(targets[delivery], extent);
    const added = { p50Ms: ours.p50Ms - direct.p50Ms, p99Ms: ours.p99Ms - direct.p99Ms };
    all.push({ added, direct, commitMs });
  }
  return all;
}

function figure(name: string, rounds: readonly Round[], at: keyof Latency): Figure {
  return {
    name,
    value: round(median(rounds.map(({ added }) => added[at]))),
    unit: "ms",
    peer: "the same calls without a gateway",
    peerValue: round(median(rounds.map(({ direct }) => direct[at]))),
    n: rounds.length,
  };
}

const commits = 200;
/** About what a row of the journal has with a few events. */
const rowBytes = 1_000;

async function prepareCommits(client: pg.Client): Promise<void> {
  await client.query("create table bench_commits (body bytea not null)");
}

/** The median time of a commit of one row, one after the other. */
async function measureCommit(client: pg.Client): Promise<number> {
  const body = randomBytes(rowBytes);
  const times: number[] = [];
  for (let done = 0; done < commits; done++) {
    const begun = performance.now();
    await client.query("insert into bench_commits values ($1)", [body]);
    times.push(performance.now() - begun);
  }
  return median(times);
}
