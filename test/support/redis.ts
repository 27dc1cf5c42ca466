import { type ChildProcess, spawn } from "node:child_process";
import { randomInt } from "node:crypto";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { isFree } from "../../src/db/embedded-server.ts";

const path = "/usr/bin/redis-server";

/** Whether the tests that need Redis are left out: only when somebody says so. */
export const isWithoutRedis = process.env.CALLORA_TEST_WITHOUT_REDIS === "1";

/** A Redis of a test, gone at the end of the scope. */
export interface TestRedis extends AsyncDisposable {
  readonly url: string;
  /** End it as a crash would, and wait for that. */
  kill(): Promise<void>;
  /** Start it again, empty, on the same port. */
  restart(): Promise<void>;
  /** Have it take connections and answer nothing, and answer again. */
  freeze(): void;
  thaw(): void;
}

/** Start a Redis that keeps nothing. Throws if it is not installed, naming the Debian package. */
export async function startRedis(): Promise<TestRedis> {
  if (!existsSync(path)) {
    throw new Error(
      "Cannot count in Redis: install the Debian package redis-server; " +
        "CALLORA_TEST_WITHOUT_REDIS=1 leaves these tests out",
    );
  }
  const directory = await mkdtemp(join(tmpdir(), "callora-redis-"));
  const port = await freePort();
  let child = await launch(directory, port);
  const kill = async () => {
    if (child.exitCode === null && child.signalCode === null) {
      const exited = once(child, "exit");
      child.kill("SIGKILL");
      await exited;
    }
  };
  return {
    url: `redis://127.0.0.1:${port}`,
    kill,
    async restart() {
      child = await launch(directory, port);
    },
    freeze: () => void child.kill("SIGSTOP"),
    thaw: () => void child.kill("SIGCONT"),
    async [Symbol.asyncDispose]() {
      await kill();
      await rm(directory, { recursive: true, force: true });
    },
  };
}

async function launch(directory: string, port: number): Promise<ChildProcess> {
  const settings = ["--port", `${port}`, "--bind", "127.0.0.1", "--save", "", "--dir", directory];
  // Its end is that of this process too: a test that runs out of time is killed, and disposes of nothing.
  const child = spawn("setpriv", ["--pdeathsig", "KILL", path, ...settings], {
    stdio: ["ignore", "pipe", "ignore"],
  });
  for await (const line of createInterface({ input: child.stdout })) {
    if (line.includes("Ready to accept connections")) {
      child.stdout.resume();
      return child;
    }
  }
  throw new Error("Cannot start Redis: it ended at once");
}

/** Below the ports of outgoing connections: one of those could take it while Redis is down. */
async function freePort(): Promise<number> {
  for (let tries = 0; tries < 100; tries++) {
    const port = randomInt(20_000, 32_000);
    if (await isFree(port)) {
      return port;
    }
  }
  throw new Error("Cannot start Redis: no port is free");
}
