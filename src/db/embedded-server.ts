import { randomInt } from "node:crypto";
import { open, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import net from "node:net";
import path from "node:path";
import { EmbeddedPostgresError } from "./embedded-error.ts";
import type { Home } from "./embedded-home.ts";
import { type GuardedProcess, processesIn, spawnGuarded, waitUntil } from "./embedded-process.ts";

const orphanTimeoutMs = 30_000;
const readyTimeoutMs = 60_000;
const fastStopTimeoutMs = 20_000;
const hardStopTimeoutMs = 5_000;
const portTriesMax = 20;
const logTailLines = 5;
const logBytesMax = 10_000_000;
const portFile = "port";

const defaultSettings = {
  fsync: "on",
  synchronous_commit: "on",
  full_page_writes: "on",
  max_connections: "60",
  shared_buffers: "64MB",
  max_wal_size: "256MB",
  io_method: "sync",
  jit: "off",
  TimeZone: "UTC",
  log_timezone: "UTC",
  // What applications do wrong is theirs to report, and their statements may hold secrets.
  log_min_messages: "log",
  log_min_error_statement: "panic",
  log_checkpoints: "off",
};

/** Everything that one run of the postmaster depends on. */
export interface ServerOptions {
  home: Home;
  port: number;
  settings: Record<string, string>;
  logFile: string;
  /** Called with the process as soon as there is one, so that it can be stopped before it is ready. */
  onSpawn: (server: GuardedProcess) => void;
  /** True once nobody wants the server any more. */
  isCancelled: () => boolean;
}

/** Start a postmaster and wait until it accepts connections; throws with its last words if it does not. */
export async function launchServer(options: ServerOptions): Promise<void> {
  const { home, port, logFile, isCancelled } = options;
  await waitForOthers(home.data, isCancelled);
  await removeReusedPid(home.data);
  if (isCancelled()) throw cannotStart("it is being stopped");
  const logStart = (await stat(logFile).catch(() => null))?.size ?? 0;
  const settings = { ...defaultSettings, ...options.settings };
  const reserved = { port: `${port}`, listen_addresses: "127.0.0.1", unix_socket_directories: "" };
  const server = await spawnGuarded({
    file: path.join(home.binaries, "bin/postgres"),
    args: ["-D", home.data, ...toArguments({ ...settings, ...reserved })],
    owner: home.owner,
    logFile,
  });
  options.onSpawn(server);
  const pidFile = path.join(home.data, "postmaster.pid");
  const isSettled = async () =>
    server.hasExited() || isCancelled() || isReady(await readPidFile(pidFile), server);
  const isInTime = await waitUntil(isSettled, readyTimeoutMs);
  if (isInTime && !server.hasExited()) return;
  if (!isInTime) await stopServer(server);
  const reason = isInTime ? `it ended with ${await server.exited}` : "it did not become ready";
  throw cannotStart(`${reason}: ${await tail(logFile, logStart)}`);
}

/** Stop a postmaster: politely, then with a crash that its log repairs, then for certain. */
export async function stopServer(server: GuardedProcess): Promise<void> {
  const steps = [
    ["SIGINT", fastStopTimeoutMs],
    ["SIGQUIT", hardStopTimeoutMs],
    ["SIGKILL", hardStopTimeoutMs],
  ] as const;
  for (const [signal, timeoutMs] of steps) {
    if (server.hasExited()) return;
    server.kill(signal);
    if (await waitUntil(server.hasExited, timeoutMs)) return;
  }
  throw new EmbeddedPostgresError(`Cannot stop PostgreSQL: process ${server.pid} does not end`);
}

/** Wait until nothing works in a data directory; throws when something stays. */
export async function waitForOthers(data: string, isCancelled = () => false): Promise<void> {
  let pids: number[] = [];
  const isFree = async () => {
    pids = await processesIn(data);
    return pids.length === 0 || isCancelled();
  };
  if (await waitUntil(isFree, orphanTimeoutMs)) return;
  throw cannotStart(
    `PostgreSQL process ${pids[0]} uses ${data} and does not end; ` +
      "stop it or set CALLORA_DATA_DIR to another directory",
  );
}

/** The stored port if it is free, else a free one, which is stored. */
export async function choosePort(home: Home): Promise<number> {
  const file = path.join(home.directory, portFile);
  const stored = await findPort(home.directory);
  if (stored !== null && (await isFree(stored))) return stored;
  for (let tries = 0; tries < portTriesMax; tries++) {
    // Below the range of outgoing connections: one of those must not take it during a restart.
    const port = randomInt(20_000, 32_000);
    if (!(await isFree(port))) continue;
    await writeFile(`${file}.new`, `${port}\n`);
    await rename(`${file}.new`, file);
    return port;
  }
  throw cannotStart("it found no free port on 127.0.0.1");
}

/** The port that the cluster of a directory was last started on. Null when it never was. */
export async function findPort(directory: string): Promise<number | null> {
  const stored = Number(await readFile(path.join(directory, portFile), "utf8").catch(() => ""));
  return stored > 0 ? stored : null;
}

/** Whether nobody listens on a port of 127.0.0.1. */
export function isFree(port: number): Promise<boolean> {
  const probe = net.createServer();
  return new Promise((resolve) => {
    probe.once("error", () => resolve(false));
    probe.listen({ port, host: "127.0.0.1", exclusive: true }, () => {
      probe.close(() => resolve(true));
    });
  });
}

/** Put the log of earlier runs aside when it has grown. */
export async function rotateLog(logFile: string): Promise<void> {
  const found = await stat(logFile).catch(() => null);
  if (found !== null && found.size > logBytesMax) await rename(logFile, `${logFile}.1`);
}

function toArguments(settings: Record<string, string>): string[] {
  return Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`]);
}

/** The postmaster writes its own state into the eighth line; asking it would fill the log with refusals. */
function isReady(pidFile: string[], server: GuardedProcess): boolean {
  return pidFile[0] === `${server.pid}` && pidFile[7]?.trim() === "ready";
}

async function readPidFile(file: string): Promise<string[]> {
  return (await readFile(file, "utf8").catch(() => "")).split("\n");
}

/**
 * PostgreSQL refuses to start while the process of its pid file exists, even if that number now belongs
 * to another program. Called when nothing works in the directory, so such a number is a reused one.
 */
async function removeReusedPid(data: string): Promise<void> {
  const file = path.join(data, "postmaster.pid");
  const pid = Number((await readPidFile(file))[0]);
  const isOther = pid > 0 && (await stat(`/proc/${pid}`).catch(() => null)) !== null;
  if (isOther) await rm(file, { force: true });
}

async function tail(logFile: string, start: number): Promise<string> {
  await using log = await open(logFile, "r");
  const text = await log.createReadStream({ start, encoding: "utf8" }).toArray();
  return text.join("").trim().split("\n").slice(-logTailLines).join(" | ");
}

function cannotStart(reason: string): EmbeddedPostgresError {
  return new EmbeddedPostgresError(`Cannot start the embedded PostgreSQL: ${reason}`);
}
