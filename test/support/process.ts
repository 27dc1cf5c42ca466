import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdtemp, readdir, readFile, readlink, rm } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import type { DescService } from "@bufbuild/protobuf";
import { type Client, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import packageJson from "../../package.json" with { type: "json" };
import { waitUntil } from "../../src/db/embedded-process.ts";
import { fastDirectory } from "./cluster.ts";

const root = join(import.meta.dirname, "..", "..");

/** A process of ours, and what it has said so far. */
export interface Run {
  pid: number;
  readonly stdout: string;
  readonly stderr: string;
  /** Settles when it has ended: its exit code, or the signal that ended it. */
  exited: Promise<number | string>;
  kill(signal: NodeJS.Signals): void;
  /** The address, once it serves. Throws with its words if it ends before. */
  url(): Promise<string>;
}

/** A place for a data directory. What still runs on it at the end is stopped, and it is removed. */
export async function makeDataDir(from?: string) {
  const parent = await mkdtemp(join(await fastDirectory(), "callora-process-"));
  // PostgreSQL's own user has to pass through when the tests run as root.
  await chmod(parent, 0o711);
  const dataDir = join(parent, "data");
  if (from !== undefined) {
    await promisify(execFile)("cp", ["-a", from, dataDir]);
  }
  return {
    path: dataDir,
    async [Symbol.asyncDispose]() {
      // Servers first: a PostgreSQL that is killed leaves shared memory behind.
      for (const pid of await programsOn(dataDir)) signal(pid, "SIGTERM");
      for (const pid of await leftOn(dataDir)) signal(pid, "SIGKILL");
      await leftOn(dataDir);
      await rm(parent, { recursive: true, force: true, maxRetries: 10 });
    },
  };
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch {}
}

/** What `npm start` runs: the environment that it sets, and the words of its command. */
export function startCommand(): { settings: Record<string, string>; command: string[] } {
  const words = packageJson.scripts.start.split(" ");
  const command = words.slice(words.indexOf("node"));
  // The first word is env: with the settings alone, the shell would stay, and end before the server.
  const settings = words.slice(1, -command.length).map((word) => word.split("="));
  return { settings: Object.fromEntries(settings), command };
}

/** `npm start`, word by word, on a free port. */
export function start(dataDir: string, env: Record<string, string> = {}): Run {
  const { settings, command } = startCommand();
  return launch(process.execPath, command.slice(1), { dataDir, env: { ...settings, ...env } });
}

/** `npx callora`, run to its end. */
export async function callora(
  args: readonly string[],
  {
    dataDir,
    env = {},
    input = "",
  }: { dataDir: string; env?: Record<string, string>; input?: string },
) {
  const run = launch(join(root, "bin", "callora"), args, { dataDir, env, input });
  const code = await run.exited;
  return { code, stdout: run.stdout, stderr: run.stderr };
}

/** Start a program with nothing of this process's environment but what programs need to be found. */
function launch(
  file: string,
  args: readonly string[],
  {
    dataDir,
    env,
    input = "",
  }: { dataDir: string; env: Record<string, string>; input?: string | undefined },
): Run {
  const { PATH = "", HOME = "" } = process.env;
  const child = spawn(file, args, {
    cwd: root,
    env: { PATH, HOME, PORT: "0", LOG_LEVEL: "warn", CALLORA_DATA_DIR: dataDir, ...env },
    // A group of its own: what is meant for the test run's must not reach it.
    detached: true,
    stdio: ["pipe", "pipe", "pipe"],
  });
  child.stdin?.on("error", () => {});
  child.stdin?.end(input);
  return watch(child);
}

function watch(child: ChildProcess): Run {
  const said = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const) {
    child[name]?.setEncoding("utf8").on("data", (text: string) => {
      said[name] += text;
    });
  }
  let hasExited = false;
  const exited = once(child, "close").then(([code, signal]) => {
    hasExited = true;
    return code ?? signal;
  });
  const address = () => /^Callora \S+ at (http:\S+) \(ready in /m.exec(said.stdout)?.[1];
  return {
    pid: child.pid ?? 0,
    get stdout() {
      return said.stdout;
    },
    get stderr() {
      return said.stderr;
    },
    exited,
    kill: (signal) => void child.kill(signal),
    async url() {
      await waitUntil(() => hasExited || address() !== undefined, 60_000);
      const url = address();
      if (url === undefined) {
        throw new Error(`the server does not serve: ${said.stdout}${said.stderr}`);
      }
      return url;
    },
  };
}

/** The processes that have to do with a data directory, by their command, working directory or environment. */
async function processesOn(dataDir: string): Promise<number[]> {
  const pids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name));
  const found = await Promise.all(
    pids.map(async (pid) => {
      const texts = await Promise.all([
        readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => ""),
        readFile(`/proc/${pid}/environ`, "utf8").catch(() => ""),
        readlink(`/proc/${pid}/cwd`).catch(() => ""),
      ]);
      return texts.some((text) => text.includes(dataDir));
    }),
  );
  return pids.filter((_, index) => found[index]).map(Number);
}

/** Our own programs on a data directory: PostgreSQL is not started with their environment. */
async function programsOn(dataDir: string): Promise<number[]> {
  const pids = await processesOn(dataDir);
  const found = await Promise.all(
    pids.map(async (pid) => {
      const environ = await readFile(`/proc/${pid}/environ`, "utf8").catch(() => "");
      return environ.includes(dataDir);
    }),
  );
  return pids.filter((_, index) => found[index]);
}

/** The processes on a data directory that are still there when they have had time to end. */
export async function leftOn(dataDir: string): Promise<number[]> {
  await waitUntil(async () => (await processesOn(dataDir)).length === 0, 10_000);
  return processesOn(dataDir);
}

/** A client of a running server. */
export function clientOf<S extends DescService>(
  service: S,
  baseUrl: string,
  token?: string,
): Client<S> {
  const transport = createConnectTransport({
    baseUrl,
    httpVersion: "1.1",
    interceptors: [
      (next) => (req) => {
        if (token !== undefined) {
          req.header.set("authorization", `Bearer ${token}`);
        }
        return next(req);
      },
    ],
  });
  return createClient(service, transport);
}
