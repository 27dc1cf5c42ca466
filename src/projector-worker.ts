// The thread of the projectors: started by projector-thread.ts, with its settings.
import { setPriority } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { parentPort, workerData } from "node:worker_threads";
import { openPool, type Pool, type Tx } from "./db/pool.ts";
import { releaseMemory } from "./lib/memory.ts";
import { type Projectors, startProjectors } from "./metering/projectors.ts";
import type { FromProjectors, ProjectorSettings, ToProjectors } from "./projector-thread.ts";

/** Each shard uses one at a time. */
const connectionsMax = 4;
const retryMs = 1_000;
/** Calls come first where both want the same core: nobody waits for a projection as for them. */
const niceness = 10;

const { url, shards, holder, debtLimitNanos, clockOffsetMs }: ProjectorSettings = workerData;

let pool: Pool | undefined;
let projectors: Projectors | undefined;
let isStopping = false;
let utilization = 0;

parentPort?.on("message", (words: ToProjectors) => {
  switch (words.kind) {
    case "wake":
      projectors?.wake();
      break;
    case "load":
      ({ utilization } = words);
      break;
    case "stop":
      void stop(words.deadlineMs);
  }
});
if (process.platform === "linux") {
  // Of this thread alone. Elsewhere it would be the process's.
  setPriority(niceness);
}
await start();
releaseMemory();

/** Open the database, as soon as it is there, and begin. */
async function start(): Promise<void> {
  while (pool === undefined && !isStopping) {
    try {
      pool = await openPool({ url, role: "callora_worker", connectionsMax });
    } catch (error) {
      tellError(error);
      await sleep(retryMs);
    }
  }
  const opened = pool;
  if (opened === undefined || isStopping) {
    return;
  }
  tell({ kind: "begun" });
  projectors = startProjectors({
    db: { systemTransaction: <T>(work: (tx: Tx) => Promise<T>) => opened.transaction(work) },
    progress: {
      note: (shard, position, accounts) => tell({ kind: "noted", shard, position, accounts }),
    },
    shards,
    holder,
    debtLimitNanos,
    now: () => new Date(Date.now() + clockOffsetMs),
    onError: tellError,
    utilization: () => utilization,
    metrics: {
      held: (shard, isHeld) => tell({ kind: "held", shard, isHeld }),
      applied(shard, { position, counts, seconds }) {
        tell({ kind: "applied", shard, round: { position, counts, seconds } });
      },
      failed: (shard) => tell({ kind: "failed", shard }),
      stuck: (shard, isStuck) => tell({ kind: "stuck", shard, isStuck }),
    },
  });
}

/** What is not done by the deadline is left to other processes, or to the next start. */
async function stop(deadlineMs: number): Promise<void> {
  isStopping = true;
  await projectors?.stop({ deadlineMs });
  await pool?.end();
  parentPort?.close();
}

function tell(said: FromProjectors): void {
  parentPort?.postMessage(said);
}

/** Not as it is: what hangs on an error cannot always be sent. */
function tellError(error: unknown): void {
  const { message, stack = "", cause } = error instanceof Error ? error : new Error(String(error));
  const told = new Error(message, cause instanceof Error ? { cause: cause.message } : {});
  told.stack = stack;
  tell({ kind: "error", error: told });
}
