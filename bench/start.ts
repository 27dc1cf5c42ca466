import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startEmbedded } from "../src/db/embedded.ts";
import { type Figure, median } from "./figure.ts";
import { freePort } from "./free-port.ts";

const rounds = 5;
const readyMsMax = 30_000;
const idleMs = 3_000;

/**
 * How long a start takes until /health/ready says so, on an empty data directory and on a used one, and how much
 * memory the idle server process has then. The peers are the embedded PostgreSQL alone, started the same two ways,
 * and a bare Node.
 */
export async function startBench(): Promise<Figure[]> {
  const ours = { first: [] as number[], later: [] as number[], idle: [] as number[] };
  const peer = { first: [] as number[], later: [] as number[], idle: [] as number[] };
  for (let round = 0; round < rounds; round++) {
    const directory = await mkdtemp(join(tmpdir(), "callora-bench-"));
    try {
      ours.first.push((await measureServer(directory)).readyMs);
      const later = await measureServer(directory);
      ours.later.push(later.readyMs);
      ours.idle.push(later.idleMb);
    } finally {
      await rm(directory, { recursive: true });
    }
    const bare = await mkdtemp(join(tmpdir(), "callora-bench-"));
    try {
      peer.first.push(await measurePostgres(bare));
      peer.later.push(await measurePostgres(bare));
    } finally {
      await rm(bare, { recursive: true });
    }
    peer.idle.push(await measureNode());
  }
  const postgres = "embedded PostgreSQL alone";
  return [
    figure("first start", { unit: "ms", atMost: 10_000, peer: postgres }, ours.first, peer.first),
    figure("later start", { unit: "ms", atMost: 4_000, peer: postgres }, ours.later, peer.later),
    figure("idle memory", { unit: "MB", atMost: 200, peer: "bare Node" }, ours.idle, peer.idle),
  ];
}

function figure(
  name: string,
  { atMost, ...rest }: Pick<Figure, "unit" | "peer"> & { atMost: number },
  ours: number[],
  theirs: number[],
): Figure {
  const bar = { of: "value", limit: "at most", at: atMost } as const;
  return { name, value: median(ours), peerValue: median(theirs), n: ours.length, bar, ...rest };
}

async function measureServer(dataDir: string): Promise<{ readyMs: number; idleMb: number }> {
  const port = await freePort();
  const begun = performance.now();
  const packageJson = JSON.parse(await readFile("package.json", "utf8"));
  const words = String(packageJson.scripts.start).split(" ");
  const settings = words.slice(1, words.indexOf("node")).map((word) => word.split("="));
  const args = words.slice(words.indexOf("node") + 1);
  const server = spawn(process.execPath, args, {
    env: {
      ...process.env,
      ...Object.fromEntries(settings),
      PORT: String(port),
      CALLORA_DATA_DIR: dataDir,
      LOG_LEVEL: "warn",
    },

    stdio: "ignore",
  });
  try {
    await untilReady(server, `http://127.0.0.1:${port}/health/ready`);
    const readyMs = Math.round(performance.now() - begun);
    await pause(idleMs);
    return { readyMs, idleMb: await residentMb(server) };
  } finally {
    await stop(server);
  }
}

async function measurePostgres(dataDir: string): Promise<number> {
  const begun = performance.now();
  const postgres = await startEmbedded({ dataDir });
  const readyMs = Math.round(performance.now() - begun);
  await postgres.stop();
  return readyMs;
}

async function measureNode(): Promise<number> {
  const node = spawn(process.execPath, ["-e", "setInterval(() => {}, 1000)"], { stdio: "ignore" });
  try {
    await pause(500);
    return await residentMb(node);
  } finally {
    await stop(node);
  }
}

async function untilReady(server: ChildProcess, url: string): Promise<void> {
  const deadline = performance.now() + readyMsMax;
  while (performance.now() < deadline) {
    const response = await fetch(url).catch(() => null);
    await response?.body?.cancel();
    if (response?.ok) {
      return;
    }
    if (server.exitCode !== null) {
      throw new Error(`Cannot measure the start: the server ended with ${server.exitCode}`);
    }
    await pause(10);
  }
  throw new Error(`Cannot measure the start: not ready within ${readyMsMax} ms`);
}

/** What the kernel says that the process holds in memory. */
async function residentMb({ pid }: ChildProcess): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  return Math.round(Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1]) / 1000);
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) {
    child.kill("SIGTERM");
    await once(child, "exit");
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
