import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const execute = promisify(execFile);

/** The servers have one core, what loads them the other. */
const serverCore = "0";
const loadCore = "1";

/** The Debian package of each tool. */
const packages = { wrk: "wrk", h2load: "nghttp2-client", taskset: "util-linux" };

/** A server in a process of its own. */
export interface ServerProcess {
  readonly url: string;
  /** What the kernel says that it holds in memory. */
  residentMb(): Promise<number>;
  stop(): Promise<void>;
}

/** Throws, naming what to install, unless the bench can be run on this machine. */
export async function checkTools(): Promise<void> {
  for (const [tool, name] of Object.entries(packages)) {
    // Each fails one way or another without arguments, but only a missing one is not found.
    await execute(tool, ["--version"]).catch((error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT") {
        throw new Error(`Cannot measure the edge: ${tool} is missing, install Debian's ${name}`);
      }
    });
  }
  if (availableParallelism() < 2) {
    throw new Error("Cannot measure the edge: it takes two cores");
  }
}

/** Start one of the servers of serve.ts. */
export async function startServer(name: string): Promise<ServerProcess> {
  const script = fileURLToPath(new URL("serve.ts", import.meta.url));
  const child = spawn("taskset", ["-c", serverCore, process.execPath, script, name], {
    stdio: ["pipe", "pipe", "inherit"],
    env: { ...process.env, NODE_ENV: "production" },
  });
  const lines = createInterface({ input: child.stdout });
  const [port] = await Promise.race([
    once(lines, "line"),
    once(child, "exit").then(() => {
      throw new Error(`Cannot measure ${name}: it ended at its start`);
    }),
  ]);
  return {
    url: `http://127.0.0.1:${port}`,
    residentMb: () => residentMb(child),
    async stop() {
      if (child.exitCode === null && child.signalCode === null) {
        child.kill("SIGTERM");
        await once(child, "exit");
      }
    },
  };
}

/** Run a tool on the core of the load. Resolves to what it prints. */
export async function runLoad(tool: "wrk" | "h2load", args: readonly string[]): Promise<string> {
  const { stdout } = await execute("taskset", ["-c", loadCore, tool, ...args], {
    maxBuffer: 16 * 1024 * 1024,
  });
  return stdout;
}

async function residentMb({ pid }: ChildProcess): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  return Math.round(Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1]) / 1000);
}
