import { setTimeout as sleep } from "node:timers/promises";
import { type Figure, median, round } from "./figure.ts";
import { type Lot, makeEvents } from "./ingest/events.ts";
import { measureGrowth } from "./ingest/growth.ts";
import type { Outcome } from "./ingest/load.ts";
import { measureMeter } from "./ingest/meter.ts";
import { copyEvents, insertEvents, insertSingles, makePeerTable } from "./ingest/peers.ts";
import { openWorld, type World } from "./ingest/world.ts";

const batch = 500;
const inFlight = 8;
const lagRate = 10_000;
/** Single events that are made for each second: more than there is time for. */
const singlesMax = 20_000;
const peerSingles = 2_000;

/**
 * How many events a second are taken durably and applied, one by one and in batches, and how long that takes. All
 * peers write the same events to the same database, in turn with ours.
 */
export async function ingestBench({ quick }: { quick: boolean }): Promise<Figure[]> {
  await using world = await openWorld();
  await makePeerTable(world.client);
  const rounds = quick ? 2 : 5;
  const lot: Lot = { count: quick ? 40_000 : 200_000, duplicatesPercent: 2, ids: "v7" };
  // The first calls of a process are slow.
  await world.send({ lot: { ...lot, count: 10_000 }, batch, inFlight, rate: 0 });
  await world.untilApplied();
  return [
    ...(await measureBatches(world, lot, rounds)),
    ...(await measureSingles(world, { rounds, seconds: quick ? 2 : 5 })),
    await measureLag(world, quick ? 4 : 20),
    ...(await measureMeter(world, quick ? 300_000 : 10_000_000)),
    ...(await measureGrowth(world, {
      small: quick ? 150_000 : 1_000_000,
      large: quick ? 500_000 : 20_000_000,
      lot: { ...lot, count: quick ? 10_000 : 100_000 },
      rounds,
    })),
  ];
}

async function measureBatches(world: World, lot: Lot, rounds: number): Promise<Figure[]> {
  const measured = {
    copy: [] as number[],
    door: [] as number[],
    insert: [] as number[],
    whole: [] as number[],
  };
  const perSecond = (seconds: number) => lot.count / seconds;
  for (let done = 0; done < rounds; done++) {
    const copied = makeEvents(world.market, { ...lot, duplicatesPercent: 0 });
    measured.copy.push(perSecond(await copyEvents(world.client, copied, world.directory)));
    const sent = await world.send({ lot, batch, inFlight, rate: 0 });
    const appliedMs = await world.untilApplied();
    measured.door.push(perSecond(sent.seconds));
    measured.whole.push(perSecond((appliedMs - sent.beginMs) / 1000));
    const inserted = makeEvents(world.market, lot);
    measured.insert.push(perSecond(await insertEvents(world.client, inserted)));
  }
  await world.checkSums();
  return [
    ...rateFigures(`durable by RecordUsage, gRPC, batches of ${batch}`, {
      ours: measured.door,
      theirs: measured.copy,
      peer: "one COPY into one indexed table",
      bar: 50_000,
    }),
    ...rateFigures("door to applied, 2 % duplicates, sums exact", {
      ours: measured.whole,
      theirs: measured.insert,
      peer: "unnest on conflict do nothing, 5000 a commit",
      bar: 20_000,
    }),
  ];
}

function rateFigures(
  name: string,
  { ours, theirs, peer, bar }: { ours: number[]; theirs: number[]; peer: string; bar: number },
): Figure[] {
  const figure = {
    name,
    value: Math.round(median(ours)),
    unit: "events/s",
    peer,
    peerValue: Math.round(median(theirs)),
    ratio: median(ours.map((value, index) => value / (theirs[index] ?? Number.NaN))),
    n: ours.length,
  };
  return [
    { ...figure, bar: { of: "value", limit: "at least", at: bar } },
    { ...figure, bar: { of: "ratio", limit: "at least", at: 0.3 } },
  ];
}

/** How single events are sent. */
const protocols = ["connect", "grpc"] as const;

/** Single events, 64 calls at once. The peer commits each by itself, over as many connections as help it. */
async function measureSingles(
  world: World,
  { rounds, seconds }: { rounds: number; seconds: number },
): Promise<Figure[]> {
  const lot: Lot = { count: seconds * singlesMax, duplicatesPercent: 0, ids: "v7" };
  const ours = { connect: [] as Outcome[], grpc: [] as Outcome[] };
  const theirs: { seconds: number; p99Ms: number }[] = [];
  for (let done = 0; done < rounds; done++) {
    for (const protocol of protocols) {
      const job = { lot, batch: 1, inFlight: 64, rate: 0, seconds, protocol };
      ours[protocol].push(await world.send(job));
      await world.untilApplied();
    }
    const events = makeEvents(world.market, { ...lot, count: seconds * peerSingles });
    theirs.push(await insertSingles(world.urls.superuser, events, 32));
  }
  return protocols.flatMap((protocol) =>
    singleFigures(protocol, { ours: ours[protocol], theirs, peerEvents: peerSingles * seconds }),
  );
}

function singleFigures(
  protocol: (typeof protocols)[number],
  {
    ours,
    theirs,
    peerEvents,
  }: { ours: Outcome[]; theirs: { seconds: number; p99Ms: number }[]; peerEvents: number },
): Figure[] {
  const how = protocol === "connect" ? "Connect over HTTP/1.1" : "gRPC over four connections";
  const figure = { peer: "a commit for each, 32 connections", n: ours.length };
  const rates = ours.map(({ events, seconds }) => events / seconds);
  return [
    {
      ...figure,
      name: `single events, 64 in flight, ${how}`,
      value: Math.round(median(rates)),
      unit: "events/s",
      peerValue: Math.round(median(theirs.map(({ seconds }) => peerEvents / seconds))),
      bar: { of: "value", limit: "at least", at: 8_000 },
    },
    {
      ...figure,
      name: `p99 of single events, 64 in flight, ${how}`,
      value: round(median(ours.map(({ p99Ms }) => p99Ms))),
      unit: "ms",
      peerValue: round(median(theirs.map(({ p99Ms }) => p99Ms))),
      bar: { of: "value", limit: "at most", at: 25 },
    },
  ];
}

/** How long after its acknowledgement an event is applied. */
async function measureLag(world: World, seconds: number): Promise<Figure> {
  const seen: [applied: number, atMs: number][] = [];
  let isOver = false;
  const watching = (async () => {
    while (!isOver) {
      seen.push([await world.applied(), Date.now()]);
      await sleep(5);
    }
  })();
  const lot: Lot = { count: lagRate * seconds, duplicatesPercent: 2, ids: "v7" };
  const sent = await world.send({ lot, batch: 50, inFlight: 32, rate: lagRate });
  await world.untilApplied();
  seen.push([await world.applied(), Date.now()]);
  isOver = true;
  await watching;
  const lags = sent.acknowledged.map(([position, atMs]) => {
    const found = seen.find(([applied]) => applied >= position);
    return Math.max(0, (found?.[1] ?? Number.NaN) - atMs);
  });
  const sorted = lags.toSorted((a, b) => a - b);
  const at = (part: number) => sorted[Math.floor(sorted.length * part)] ?? Number.NaN;
  return {
    name: `lag of projection at ${Math.round(lot.count / sent.seconds)} events/s, p99`,
    value: round(at(0.99)),
    unit: "ms",
    peer: "its p50",
    peerValue: round(at(0.5)),
    bar: { of: "value", limit: "at most", at: 500 },
    n: lags.length,
  };
}
