import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import pg from "pg";
import { startEmbedded } from "../src/db/embedded.ts";
import { migrateUp } from "../src/db/migrate.ts";
import { migrationsDirectory } from "../src/db/migration-files.ts";
import { mintSecret } from "../src/keys/secret.ts";
import { newId } from "../src/lib/id.ts";
import { bearer, grpcFrame, paths } from "./edge/calls.ts";
import { checkTools, startServer } from "./edge/processes.ts";
import { type Figure, median, round } from "./figure.ts";
import type { Extent, Outcome } from "./keys/http2-load.ts";
import type { Job } from "./keys/load.ts";

const execute = promisify(execFile);

const keysMax = 100_000;
const unknownShare = 0.01;
const offered = 0.7;

/**
 * How many keys a second one process verifies over gRPC, warm and at first sight, how the latency is at 70 % of that,
 * and what a remembered key costs. The peer of the warm figure is a trivial call to the bare edge, by the same load.
 */
export async function keysBench({ quick }: { quick: boolean }): Promise<Figure[]> {
  await checkTools();
  const [rounds, seconds] = quick ? [3, 1] : [5, 3];
  const directory = await mkdtemp(join(tmpdir(), "callora-bench-"));
  const postgres = await startEmbedded({ dataDir: directory });
  const bare = await startServer("edge");
  const raw = await startServer("raw-http2");
  try {
    await migrateUp(postgres.urls.owner, { directory: migrationsDirectory });
    const secrets = join(directory, "secrets");
    const rowBytes = await fillKeys(superuserUrl(postgres.urls), secrets);
    await using server = await startKeyServer(postgres.urls);
    const trivial = trivialCall(bare.url);
    const verify: Target = {
      port: server.port,
      path: "/callora.keys.v1.KeyService/VerifyKey",
      secrets,
    };
    const eachOnce = { calls: keysMax, seconds: 60, rate: 0, streams: 64 };
    const forSeconds = { calls: Number.MAX_SAFE_INTEGER, seconds, rate: 0, streams: 16 };
    await send(trivial, { ...forSeconds, seconds: 1 });
    const before = await server.heapBytes();
    const cold = await send(verify, eachOnce);
    const bytes = ((await server.heapBytes()) - before) / keysMax;
    const measured = { ours: [] as number[], theirs: [] as number[] };
    await send(verify, forSeconds);
    for (let done = 0; done < rounds; done++) {
      measured.theirs.push(perSecond(await send(trivial, forSeconds)));
      measured.ours.push(perSecond(await send(verify, forSeconds)));
    }
    const rate = Math.round(offered * median(measured.ours));
    const paced = await repeat(rounds, () => send(verify, { ...forSeconds, rate }));
    const floor = await repeat(rounds, () => send(trivialCall(raw.url), { ...forSeconds, rate }));
    return [
      warmFigure(measured),
      {
        name: `first sight of ${keysMax} keys`,
        value: round(perSecond(cold)),
        unit: "req/s",
        peer: "warm",
        peerValue: round(median(measured.ours)),
        bar: { of: "value", limit: "at least", at: 5_000 },
        n: 1,
      },
      latencyFigure(rate, paced),
      floorFigure(rate, paced, floor),
      {
        name: "memory of a remembered key",
        value: Math.round(bytes),
        unit: "bytes",
        peer: "its rows in the database",
        peerValue: rowBytes,
        bar: { of: "value", limit: "at most", at: 1024 },
        n: 1,
      },
    ];
  } finally {
    await bare.stop();
    await raw.stop();
    await postgres.stop();
    await rm(directory, { recursive: true });
  }
}

function trivialCall(url: string): Target {
  const port = Number(new URL(url).port);
  return { port, path: paths.rpc, message: grpcFrame().toString("hex") };
}

type Target = Pick<Job, "port" | "path" | "secrets" | "message">;

function warmFigure({ ours, theirs }: { ours: number[]; theirs: number[] }): Figure {
  return {
    name: `VerifyKey, gRPC, ${keysMax} keys, ${unknownShare * 100} % unknown`,
    value: round(median(ours)),
    unit: "req/s",
    peer: "the bare edge's trivial call",
    peerValue: round(median(theirs)),
    ratio: median(ours.map((value, index) => value / (theirs[index] ?? Number.NaN))),
    bar: { of: "ratio", limit: "at least", at: 0.7 },
    n: ours.length,
  };
}

function latencyFigure(rate: number, paced: readonly Outcome[]): Figure {
  return {
    name: `p99 at ${rate} req/s`,
    value: round(median(paced.map(({ p99Ms }) => p99Ms))),
    unit: "ms",
    peer: "its p50",
    peerValue: round(median(paced.map(({ p50Ms }) => p50Ms))),
    ratio: median(paced.map(({ p99Ms, p50Ms }) => p99Ms / p50Ms)),
    bar: { of: "ratio", limit: "at most", at: 3 },
    n: paced.length,
  };
}

/** The same rate at the least that Node can do, whose collections of ended streams nobody on it can be spared. */
function floorFigure(rate: number, paced: readonly Outcome[], floor: readonly Outcome[]): Figure {
  return {
    name: `p99 at ${rate} req/s`,
    value: round(median(paced.map(({ p99Ms }) => p99Ms))),
    unit: "ms",
    peer: "bare node:http2",
    peerValue: round(median(floor.map(({ p99Ms }) => p99Ms))),
    n: paced.length,
  };
}

/** Make the keys, and write their secrets and the unknown ones to a file. Resolves to what a key takes of the disk. */
async function fillKeys(url: string, file: string): Promise<number> {
  const minted = Array.from({ length: keysMax }, () => mintSecret("live"));
  const unknownEvery = Math.round(1 / unknownShare);
  const isUnknown = (index: number) => index % unknownEvery === 0;
  await writeFile(file, minted.map(({ plain }) => plain).join("\n"));
  const now = new Date();
  const known = minted.filter((_secret, index) => !isUnknown(index));
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    await client.query(
      `with made as (
         insert into api_keys (account_id, id, family_id, user_id, api_id, mode, prefix, key_hash)
         select account_id, id, id, 'usr_1', api_id, 'live', 'ck_live_', key_hash
         from unnest($1::text[], $2::text[], $3::text[], $4::bytea[])
           as made (account_id, id, api_id, key_hash)
         returning key_hash, account_id, id
       )
       insert into api_key_directory select * from made`,
      [
        known.map(() => newId("acc", now)),
        known.map(() => newId("key", now)),
        known.map(() => newId("api", now)),
        known.map(({ hash }) => hash),
      ],
    );
    await client.query("analyze api_keys");
    await client.query("analyze api_key_directory");
    const { rows } = await client.query(
      `select (pg_total_relation_size('api_keys') + pg_total_relation_size('api_key_directory'))::int
         / $1::int as bytes`,
      [known.length],
    );
    return rows[0].bytes;
  } finally {
    await client.end();
  }
}

/** The superuser's way into the server's database: nobody else may write for many accounts at once. */
function superuserUrl({ superuser, owner }: { superuser: string; owner: string }): string {
  const url = new URL(superuser);
  url.pathname = new URL(owner).pathname;
  return url.href;
}

async function startKeyServer(urls: { app: string; worker: string }) {
  const script = fileURLToPath(new URL("keys/serve.ts", import.meta.url));
  const args = ["-c", "0", process.execPath, "--expose-gc", script, urls.app, urls.worker];
  const child = spawn("taskset", args, {
    stdio: ["pipe", "pipe", "inherit"],
    env: { ...process.env, NODE_ENV: "production" },
  });
  const lines = createInterface({ input: child.stdout });
  const [port] = await Promise.race([
    once(lines, "line"),
    once(child, "exit").then(() => {
      throw new Error("Cannot measure the keys: their server ended at its start");
    }),
  ]);
  return {
    port: Number(port),
    async heapBytes(): Promise<number> {
      child.stdin.write("heap\n");
      const [bytes] = await once(lines, "line");
      return Number(bytes);
    },
    async [Symbol.asyncDispose]() {
      if (child.exitCode === null && child.signalCode === null) {
        child.stdin.end();
        await once(child, "exit");
      }
    },
  };
}

/** Send load from the other core. Throws unless every call had an answer, and the right share of them is valid. */
async function send(target: Target, extent: Extent): Promise<Outcome> {
  const script = fileURLToPath(new URL("keys/load.ts", import.meta.url));
  const headers: Job["headers"] = [
    ["content-type", "application/grpc"],
    ["te", "trailers"],
    ["authorization", `Bearer ${bearer}`],
  ];
  const job: Job = { ...target, headers, extent };
  const args = ["-c", "1", process.execPath, script, JSON.stringify(job)];
  const { stdout } = await execute("taskset", args);
  const outcome: Outcome = JSON.parse(stdout);
  const share = 1 - outcome.valid / outcome.calls;
  const wanted = target.secrets === undefined ? 0 : unknownShare;
  if (outcome.failed > 0 || Math.abs(share - wanted) > 0.002) {
    throw new Error(`Cannot measure ${target.path}: its answers are wrong\n${stdout}`);
  }
  return outcome;
}

function perSecond({ calls, seconds }: Outcome): number {
  return calls / seconds;
}

async function repeat<T>(times: number, work: () => Promise<T>): Promise<T[]> {
  const results: T[] = [];
  for (let done = 0; done < times; done++) {
    results.push(await work());
  }
  return results;
}
