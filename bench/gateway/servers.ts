import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

/** A process that calls are sent to. */
export interface Served extends AsyncDisposable {
  readonly url: string;
  readonly pid: number;
}

/** Fastify's proxy in a process of its own, doing nothing but that: what ours is measured against. */
export async function startFastifyProxy(upstream: string): Promise<Served> {
  const script = fileURLToPath(new URL("fastify.ts", import.meta.url));
  const child = spawn(process.execPath, [script, upstream], {
    stdio: ["pipe", "pipe", "inherit"],
    env: { ...process.env, NODE_ENV: "production" },
  });
  const lines = createInterface({ input: child.stdout });
  const [url] = await Promise.race([
    once(lines, "line"),
    once(child, "exit").then(() => {
      throw new Error("Cannot measure the gateway: Fastify's proxy ended at its start");
    }),
  ]);
  return {
    url: String(url),
    pid: child.pid ?? 0,
    async [Symbol.asyncDispose]() {
      if (child.exitCode === null && child.signalCode === null) {
        child.stdin.end();
        await once(child, "exit");
      }
    },
  };
}
