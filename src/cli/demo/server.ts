import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { within } from "./wait.ts";

/** The server that a demo talks to. */
export interface DemoServer extends AsyncDisposable {
  url: string;
  /** The data directory, when the demo started the server. */
  ownDataDir: string | undefined;
}

const probeTimeoutMs = 3_000;
const startTimeoutMs = 60_000;
const stopTimeoutMs = 30_000;
const outputCharactersMax = 4_000;

/** Use the server at the address, or start one when nobody listens there and `mayStart`. */
export async function findServer(url: string, mayStart: boolean): Promise<DemoServer> {
  if (!URL.canParse(url)) {
    throw new Error(`Cannot use the address "${url}": it is not a URL`);
  }
  const reply = await fetch(new URL("/health/ready", url), {
    signal: AbortSignal.timeout(probeTimeoutMs),
  }).catch((error: unknown) => {
    if (mayStart && isRefused(error)) {
      return null;
    }
    throw new Error(`Cannot reach a server at ${url}`, { cause: error });
  });
  if (reply === null) {
    return startServer();
  }
  const text = await reply.text();
  if (!reply.ok || !/"status":\s*"ready"/.test(text)) {
    const answer = `${reply.status} ${text.slice(0, 200)}`;
    throw new Error(
      `Cannot use the server at ${url}: it is not a Callora that is ready: ${answer}`,
    );
  }
  return { url, ownDataDir: undefined, [Symbol.asyncDispose]: async () => {} };
}

function isRefused(error: unknown): boolean {
  const cause = error instanceof Error ? error.cause : undefined;
  return cause instanceof Error && "code" in cause && cause.code === "ECONNREFUSED";
}

/**
 * Start a server with a data directory of its own. Nothing is left of it when it was disposed of.
 */
async function startServer(): Promise<DemoServer> {
  const directory = await mkdtemp(join(tmpdir(), "callora-demo-"));
  // As root, PostgreSQL runs as another user, who has to pass through.
  await chmod(directory, 0o711);
  const dataDir = join(directory, "data");
  const child = spawnServer(directory, dataDir);
  const stop = disposer(child, directory);
  const onSignal = () => void stop().finally(() => process.exit(130));
  process.once("SIGINT", onSignal).once("SIGTERM", onSignal);
  const dispose = () => {
    process.off("SIGINT", onSignal).off("SIGTERM", onSignal);
    return stop();
  };
  try {
    const url = await within(startTimeoutMs, "the server to start", readUrl(child));
    return { url, ownDataDir: dataDir, [Symbol.asyncDispose]: dispose };
  } catch (error) {
    await dispose();
    throw error;
  }
}

const root = join(import.meta.dirname, "..", "..", "..");

/**
 * It runs in its own directory and sees none of this environment's settings: no `.env`, no database
 * but its own.
 */
function spawnServer(cwd: string, dataDir: string): ChildProcess {
  const { PATH, HOME, TMPDIR, LANG, TZ } = process.env;
  const kept = Object.entries({ PATH, HOME, TMPDIR, LANG, TZ }).filter(
    ([, value]) => value !== undefined,
  );
  return spawn(
    process.execPath,
    [
      ...["--require", join(root, "src", "boot.cjs")],
      ...["--import", join(root, "src", "telemetry.ts")],
      join(root, "src", "main.ts"),
    ],
    {
      cwd,
      env: { ...Object.fromEntries(kept), PORT: "0", CALLORA_DATA_DIR: dataDir, LOG_LEVEL: "warn" },
      stdio: ["ignore", "pipe", "pipe"],
    },
  );
}

/** Read the address from the server's greeting. Throws when it ends before. */
async function readUrl(child: ChildProcess): Promise<string> {
  let output = "";
  return new Promise((resolve, reject) => {
    const read = (chunk: Buffer) => {
      output = `${output}${chunk}`.slice(-outputCharactersMax);
      const port = /^Callora \S+ at http:\/\/[^\s/]+:(\d+) /m.exec(output)?.[1];
      if (port !== undefined) {
        resolve(`http://127.0.0.1:${port}`);
      }
    };
    child.stdout?.on("data", read);
    child.stderr?.on("data", read);
    child.once("error", reject);
    child.once("exit", (code, signal) => {
      reject(new Error(`Cannot start a server: it ended with ${code ?? signal}: ${output.trim()}`));
    });
  });
}

function disposer(child: ChildProcess, directory: string): () => Promise<void> {
  let stopped: Promise<void> | undefined;
  async function stop() {
    const isRunning = () => child.exitCode === null && child.signalCode === null;
    if (isRunning() && child.pid !== undefined) {
      const exited = once(child, "exit");
      child.kill("SIGTERM");
      const waited = new AbortController();
      const late = sleep(stopTimeoutMs, true, { signal: waited.signal }).catch(() => false);
      if (await Promise.race([exited.then(() => false), late])) {
        child.kill("SIGKILL");
        await exited;
      }
      waited.abort();
    }
    await rm(directory, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
  }
  return () => {
    stopped ??= stop();
    return stopped;
  };
}

/** The password that a server wrote on its first start. */
export async function readAdminPassword(dataDir: string): Promise<string> {
  const path = join(dataDir, "admin-password");
  const text = await readFile(path, "utf8").catch((cause: unknown) => {
    const hint = "pass --password, or set CALLORA_ADMIN_PASSWORD";
    throw new Error(`Cannot find the admin's password: ${hint}`, { cause });
  });
  return text.trim();
}
