import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { checkAnswer } from "./edge/check.ts";
import { type CallKind, type Load, prepareLoad } from "./edge/load.ts";
import { checkTools, type ServerProcess, startServer } from "./edge/processes.ts";
import { type Bar, compared, type Figure, median } from "./figure.ts";

/** How much is measured. */
interface Extent {
  readonly rounds: number;
  readonly warmUpSeconds: number;
  readonly seconds: number;
  /** Requests before the first look at the memory and before the last. */
  readonly requests: { readonly first: number; readonly last: number };
}

const whole: Extent = {
  rounds: 5,
  warmUpSeconds: 2,
  seconds: 2,
  // By the first look Node has let the heap grow to the size that it gives it.
  requests: { first: 200_000, last: 1_000_000 },
};
const quickly: Extent = {
  rounds: 3,
  warmUpSeconds: 1,
  seconds: 1,
  requests: { first: 20_000, last: 100_000 },
};

/** One thing to measure: a call to a server. */
interface Run {
  readonly server: string;
  readonly kind: CallKind;
}

/**
 * In the order of a round: what is compared stands together. Like each peer, the edge has a process for
 * each protocol: one that serves them all compiles the paths that they share for none of them.
 */
const runs = {
  raw: { server: "raw", kind: "post" },
  rest: { server: "edge-rest", kind: "post" },
  fastify: { server: "fastify", kind: "post" },
  connect: { server: "edge-connect", kind: "rpc" },
  connectNode: { server: "connect-http1", kind: "rpc" },
  connectNodeGrpc: { server: "connect-http2", kind: "grpc" },
  grpc: { server: "edge-grpc", kind: "grpc" },
  grpcJs: { server: "grpc-js", kind: "grpc" },
  fastifyGet: { server: "fastify", kind: "get" },
  get: { server: "edge-rest", kind: "get" },
  fullGet: { server: "edge-full", kind: "get" },
} as const satisfies Record<string, Run>;

type RunName = keyof typeof runs;
type Measured = Record<RunName, number[]>;

/** Load is offered at this part of what the slower of two can take. */
const offered = 0.7;

/**
 * How many calls a second the edge takes beside raw Node, Fastify, connect-node and grpc-js, how its
 * latency compares at the same rate, and whether its memory stays.
 */
export async function edgeBench({ quick }: { quick: boolean }): Promise<Figure[]> {
  await checkTools();
  const extent = quick ? quickly : whole;
  const directory = await mkdtemp(join(tmpdir(), "callora-bench-"));
  const servers = new Map<string, ServerProcess>();
  try {
    for (const { server } of Object.values(runs)) {
      if (!servers.has(server)) {
        servers.set(server, await startServer(server));
      }
    }
    const load = await prepareLoad(directory);
    const urlOf = (name: string) => servers.get(name)?.url ?? "";
    const measured = await measureThroughput(load, urlOf, extent);
    return [
      ...throughputFigures(measured),
      await latencyFigure({ load, urlOf, extent, measured }, "HTTP/1.1", "rest", "fastify"),
      await latencyFigure({ load, urlOf, extent, measured }, "gRPC", "grpc", "grpcJs"),
      await memoryFigure(load, extent),
    ];
  } finally {
    await Promise.all([...servers.values()].map((server) => server.stop()));
    await rm(directory, { recursive: true });
  }
}

async function measureThroughput(
  load: Load,
  urlOf: (server: string) => string,
  { rounds, warmUpSeconds, seconds }: Extent,
): Promise<Measured> {
  const names = Object.keys(runs) as RunName[];
  const measured = Object.fromEntries(names.map((name) => [name, [] as number[]])) as Measured;
  for (const { server, kind } of Object.values(runs)) {
    await checkAnswer(urlOf(server), kind);
    await load.throughput(urlOf(server), kind, warmUpSeconds);
  }
  for (let done = 0; done < rounds; done++) {
    for (const name of names) {
      const { server, kind } = runs[name];
      measured[name].push(await load.throughput(urlOf(server), kind, seconds));
    }
  }
  return measured;
}

function throughputFigures(measured: Measured): Figure[] {
  const figure = (name: string, ours: RunName, [peer, theirs]: [string, RunName], at?: number) =>
    compared(name, {
      unit: "req/s",
      peer,
      ours: measured[ours],
      theirs: measured[theirs],
      ...(at === undefined ? {} : { bar: { of: "ratio", limit: "at least", at } }),
    });
  return [
    figure("REST JSON, HTTP/1.1", "rest", ["raw node:http", "raw"]),
    figure("REST JSON, HTTP/1.1", "rest", ["Fastify", "fastify"], 0.9),
    figure("REST JSON, HTTP/1.1", "rest", ["connect-node", "connectNode"], 5),
    figure("Connect JSON, HTTP/1.1", "connect", ["Fastify", "fastify"], 0.9),
    figure("Connect JSON, HTTP/1.1", "connect", ["connect-node", "connectNode"]),
    figure("gRPC unary, h2c", "grpc", ["grpc-js", "grpcJs"], 1.3),
    figure("gRPC unary, h2c", "grpc", ["connect-node", "connectNodeGrpc"], 6),
    figure("REST GET, path + 3 query fields", "get", ["Fastify", "fastifyGet"], 0.9),
    figure("REST GET, all interceptors", "fullGet", ["the bare edge", "get"], 0.7),
  ];
}

interface Latency {
  readonly load: Load;
  readonly urlOf: (server: string) => string;
  readonly extent: Extent;
  readonly measured: Measured;
}

async function latencyFigure(
  { load, urlOf, extent, measured }: Latency,
  what: string,
  ours: RunName,
  theirs: RunName,
): Promise<Figure> {
  const rate = Math.round(offered * Math.min(median(measured[ours]), median(measured[theirs])));
  const times = { ours: [] as number[], theirs: [] as number[] };
  const { seconds } = extent;
  for (let done = 0; done < extent.rounds; done++) {
    for (const [run, list] of [
      [runs[ours], times.ours],
      [runs[theirs], times.theirs],
    ] as const) {
      list.push(await load.p99Ms(urlOf(run.server), run.kind, { rate, seconds }));
    }
  }
  const peer = runs[theirs].server;
  const bar: Bar = { of: "ratio", limit: "at most", at: 1.25 };
  return compared(`p99 at ${rate} req/s, ${what}`, { unit: "ms", peer, bar, ...times });
}

async function memoryFigure(load: Load, { requests }: Extent): Promise<Figure> {
  const server = await startServer("edge");
  try {
    await load.send(server.url, "post", requests.first / 2);
    await load.send(server.url, "grpc", requests.first / 2);
    const early = await server.residentMb();
    await load.send(server.url, "post", (requests.last - requests.first) / 2);
    await load.send(server.url, "grpc", (requests.last - requests.first) / 2);
    const late = await server.residentMb();
    return {
      name: `memory after ${requests.last} requests`,
      value: late,
      unit: "MB",
      peer: `after ${requests.first}`,
      peerValue: early,
      bar: { of: "ratio", limit: "at most", at: 1.1 },
      n: 1,
    };
  } finally {
    await server.stop();
  }
}
