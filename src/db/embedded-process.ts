import { type ChildProcess, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { open, readdir, readFile, readlink, realpath, rm, writeFile } from "node:fs/promises";
import net from "node:net";
import path from "node:path";
import type { Writable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { DataDirInUseError, EmbeddedPostgresError } from "./embedded-error.ts";
import type { Owner } from "./embedded-owner.ts";

/** A program that stops by itself when this process dies. */
export interface GuardedProcess {
  pid: number;
  /** Settles when the program has ended, with its exit code or signal. */
  exited: Promise<string>;
  hasExited(): boolean;
  kill(signal: NodeJS.Signals): void;
}

/**
 * The shell becomes the program, so its process id is ours to watch. Before that it leaves a guard
 * behind, which waits at the other end of a pipe: a line means that the program has ended, end of
 * file means that this process is gone, and then the guard stops the program.
 */
const guardScript = `
( (
  trap '' HUP INT QUIT TERM
  read -r _ <&3 && exit 0
  for signal in INT QUIT KILL; do
    if [ $signal = INT ]; then kill -INT $$ || exit 0; else kill -$signal -- -$$; fi
    n=0
    while [ $n -lt 100 ]; do kill -0 $$ || exit 0; sleep 0.1 || sleep 1; n=$((n + 1)); done
  done
) </dev/null >/dev/null 2>&1 & )
exec "$@" 3<&-
`;

/** Start a program in its own session (a terminal's Ctrl-C is not for it), output to a log file. */
export async function spawnGuarded(options: {
  file: string;
  args: string[];
  owner: Owner | null;
  logFile: string;
}): Promise<GuardedProcess> {
  const { file, args, owner, logFile } = options;
  await using log = await open(logFile, "a", 0o600);
  const child = spawn("/bin/sh", ["-c", guardScript, "sh", file, ...args], {
    ...owner,
    cwd: "/",
    detached: true,
    // A fixed environment: the caller's LANG, PGPORT or LD_PRELOAD must not change the cluster.
    env: { PATH: "/usr/local/bin:/usr/bin:/bin", LANG: "C.UTF-8", TZ: "UTC" },
    stdio: ["ignore", log.fd, log.fd, "pipe"],
  });
  return watch(child);
}

function watch(child: ChildProcess): Promise<GuardedProcess> {
  const guard = child.stdio[3] as Writable;
  guard.on("error", () => {});
  let ended = false;
  const exited = new Promise<string>((resolve) => {
    child.once("exit", (code, signal) => {
      ended = true;
      guard.end("ended\n");
      resolve(signal ?? `exit code ${code}`);
    });
  });
  const kill = (signal: NodeJS.Signals) => void child.kill(signal);
  return new Promise((resolve, reject) => {
    child.once("spawn", () => {
      resolve({ pid: child.pid ?? 0, exited, hasExited: () => ended, kill });
    });
    child.once("error", (cause) => {
      const reason = `cannot run /bin/sh as the database's user: ${cause.message}`;
      const message = `Cannot start the embedded PostgreSQL: ${reason}; set DATABASE_URL instead`;
      reject(new EmbeddedPostgresError(message, { cause }));
    });
  });
}

/** Wait at most `timeoutMs` for something to become true; say whether it did. */
export async function waitUntil(
  isTrue: () => boolean | Promise<boolean>,
  timeoutMs: number,
): Promise<boolean> {
  const pollMs = 25;
  const deadline = performance.now() + timeoutMs;
  while (!(await isTrue())) {
    if (performance.now() > deadline) return false;
    await sleep(pollMs);
  }
  return true;
}

/**
 * List the PostgreSQL processes that work in a data directory, whoever started them. A server and each
 * of its backends have it as working directory, so a reused process id is never mistaken for one.
 * Empty where there is no /proc.
 */
export async function processesIn(data: string): Promise<number[]> {
  const entries = await readdir("/proc").catch(() => []);
  const pids = entries.filter((name) => /^\d+$/.test(name));
  const found = await Promise.all(
    pids.map(async (pid) => {
      const cwd = await readlink(`/proc/${pid}/cwd`).catch(() => null);
      if (cwd !== data) return false;
      const name = await readFile(`/proc/${pid}/comm`, "utf8").catch(() => "");
      return name.trim() === "postgres";
    }),
  );
  return pids.filter((_, index) => found[index]).map(Number);
}

/** A hold on a data directory. */
export interface DirectoryLock {
  release(): Promise<void>;
}

/**
 * Hold a data directory for this process, or throw DataDirInUseError, which names the other one. On
 * Linux the hold is an abstract socket: the kernel frees it at the moment its owner dies, so nothing
 * stale can stop the next start. Elsewhere the process id in `server.pid` has to do.
 */
export async function lockDirectory(directory: string): Promise<DirectoryLock> {
  const real = await realpath(directory);
  const pidFile = path.join(real, "server.pid");
  const name = createHash("sha256").update(real).digest("hex").slice(0, 32);
  const held = await listenAbstract(`\0callora-${name}`);
  const other = Number(await readFile(pidFile, "utf8").catch(() => ""));
  if (held === "taken" || (held === "unsupported" && isAlive(other))) {
    throw new DataDirInUseError(
      `Cannot start on ${real}: process ${other || "unknown"} is already running on it; ` +
        "stop that one or set CALLORA_DATA_DIR to another directory",
    );
  }
  await writeFile(pidFile, `${process.pid}\n`);
  let isReleased = false;
  return {
    async release() {
      // By the second time the directory may be another process's.
      if (isReleased) return;
      isReleased = true;
      await rm(pidFile, { force: true });
      if (held !== "unsupported") await new Promise((resolve) => held.close(resolve));
    },
  };
}

function listenAbstract(name: string): Promise<net.Server | "taken" | "unsupported"> {
  if (process.platform !== "linux") return Promise.resolve("unsupported");
  const server = net.createServer((socket) => socket.destroy());
  return new Promise((resolve) => {
    server.once("error", (error: NodeJS.ErrnoException) => {
      resolve(error.code === "EADDRINUSE" ? "taken" : "unsupported");
    });
    server.listen({ path: name, exclusive: true }, () => resolve(server.unref()));
  });
}

function isAlive(pid: number): boolean {
  if (!Number.isInteger(pid) || pid <= 0 || pid === process.pid) return false;
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}
