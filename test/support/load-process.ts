import { fork } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import type { LoadJob, LoadProgress } from "./load-client.ts";

/** A running client. */
export interface LoadProcess extends AsyncDisposable {
  /** Wait until something that it sends from now on is acknowledged. Throws when it ends, or that takes longer. */
  acknowledgement(withinMs: number): Promise<void>;
  progress(): LoadProgress;
  /** Let it send what it still has to, and end. Throws unless it could. */
  finish(): Promise<void>;
}

/** Start a client in a process of its own. It ends with this one. */
export function startLoad(job: LoadJob): LoadProcess {
  const child = fork(join(import.meta.dirname, "load-client.ts"), [JSON.stringify(job)], {
    stdio: ["ignore", "inherit", "inherit", "ipc"],
    execArgv: [],
  });
  const exited = once(child, "exit").then(([code, signal]) => code ?? signal);
  let latest: LoadProgress = { acknowledged: 0, latestSentMs: 0, failed: 0 };
  child.on("message", (progress: LoadProgress) => {
    latest = progress;
  });
  return {
    progress: () => latest,
    async acknowledgement(withinMs) {
      const signal = AbortSignal.timeout(withinMs);
      // What is sent already is one call of each worker.
      const wanted = latest.acknowledged + job.workers + 1;
      const heard = (async () => {
        while (latest.acknowledged < wanted) {
          await once(child, "message", { signal }).catch(() => {
            throw new Error(`nothing was acknowledged for ${withinMs} ms`);
          });
        }
      })();
      const ended = exited.then((how) => {
        throw new Error(`the client ended with ${how}`);
      });
      await Promise.race([heard, ended]);
    },
    async finish() {
      child.send("stop");
      const how = await exited;
      if (how !== 0) {
        throw new Error(`the client ended with ${how}: not all was acknowledged`);
      }
    },
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await exited;
    },
  };
}
