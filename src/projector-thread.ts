import { performance } from "node:perf_hooks";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import type { Applications, ProjectorMetrics, Projectors } from "./metering/projectors.ts";

/** What the projectors of a thread are started with. */
export interface ProjectorSettings {
  /** Of the database, in the worker's role. */
  url: string;
  shards: number;
  /** Names the process. A UUID. */
  holder: string;
  debtLimitNanos: bigint;
  /** How far the process's time is moved. */
  clockOffsetMs: number;
}

/** What the thread is told: to look for new rows, how busy calls keep the other (from 0 to 1), or to stop. */
export type ToProjectors =
  | { kind: "wake" }
  | { kind: "load"; utilization: number }
  | { kind: "stop"; deadlineMs: number };

/** What the thread tells. */
export type FromProjectors =
  | { kind: "begun" }
  | { kind: "applied"; shard: number; round: AppliedRound }
  | { kind: "noted"; shard: number; position: bigint; accounts: readonly string[] }
  | { kind: "held"; shard: number; isHeld: boolean }
  | { kind: "failed"; shard: number }
  | { kind: "stuck"; shard: number; isStuck: boolean }
  | { kind: "error"; error: Error };

type AppliedRound = Parameters<ProjectorMetrics["applied"]>[1];

/** Whom the thread's words are for. */
export interface ProjectorListeners {
  progress: Applications;
  metrics: ProjectorMetrics;
  onError(error: unknown): void;
}

/**
 * The heap: what a round makes and drops fits into the young part, and the whole may grow far beyond what is needed. One
 * that may not become large is collected each time that it has grown by a few megabytes, which took more of the cores
 * than all else that the thread does.
 */
const resourceLimits = { maxYoungGenerationSizeMb: 48, maxOldGenerationSizeMb: 2_048 };

/** After the deadline of a stop the thread has so long for its last statement. */
const lastStatementMs = 2_000;

/**
 * Apply the journal in a thread of its own, with its own connections: a round takes tens of milliseconds, for which no
 * call has to wait there. A thread that fails ends the process, as the projectors would that ran in it.
 */
export function startProjectorThread(
  settings: ProjectorSettings,
  listeners: ProjectorListeners,
): Projectors {
  const thread = new Worker(new URL("./projector-worker.ts", import.meta.url), {
    name: "projectors",
    workerData: settings,
    // With the cache of compiled modules, but without telemetry: nothing here has a parent's span.
    execArgv: ["--require", fileURLToPath(new URL("./boot.cjs", import.meta.url))],
    resourceLimits,
  });
  const ended = new Promise<void>((resolve) => thread.once("exit", () => resolve()));
  let [hasBegun, isStopping] = [false, false];
  thread.on("message", (said: FromProjectors) => {
    hasBegun ||= said.kind === "begun";
    hear(listeners, said);
  });
  thread.on("error", (error) => {
    throw error;
  });
  thread.once("exit", (code) => {
    if (!isStopping) {
      throw new Error(`Cannot go on: the thread of the projectors ended with ${code}`);
    }
  });
  const tell = (words: ToProjectors) => thread.postMessage(words);
  const loadTimer = watchLoad((utilization) => tell({ kind: "load", utilization }));
  return {
    wake: () => tell({ kind: "wake" }),
    async stop({ deadlineMs } = { deadlineMs: 0 }) {
      isStopping = true;
      clearInterval(loadTimer);
      if (!hasBegun) {
        // It would not hear of it before all of its modules are loaded.
        await thread.terminate();
        return;
      }
      tell({ kind: "stop", deadlineMs });
      const timer = setTimeout(() => void thread.terminate(), deadlineMs + lastStatementMs);
      await ended;
      clearTimeout(timer);
    },
  };
}

const loadEveryMs = 250;
/** Less is as good as nothing: a server where nothing happens shall not wake its thread to say so. */
const utilizationMin = 0.05;

/**
 * Tell how busy calls keep this thread, as long as they do. Rounds are few then: each costs both threads and the database
 * much the same, however little it applies.
 */
function watchLoad(onLoad: (utilization: number) => void): NodeJS.Timeout {
  let before = performance.eventLoopUtilization();
  let last = 0;
  const timer = setInterval(() => {
    const now = performance.eventLoopUtilization();
    const { utilization } = performance.eventLoopUtilization(now, before);
    before = now;
    const told = utilization < utilizationMin ? 0 : utilization;
    if (told !== last) {
      last = told;
      onLoad(told);
    }
  }, loadEveryMs);
  return timer.unref();
}

function hear({ progress, metrics, onError }: ProjectorListeners, said: FromProjectors): void {
  switch (said.kind) {
    case "begun":
      break;
    case "applied":
      metrics.applied(said.shard, said.round);
      break;
    case "noted":
      progress.note(said.shard, said.position, said.accounts);
      break;
    case "held":
      metrics.held(said.shard, said.isHeld);
      break;
    case "failed":
      metrics.failed(said.shard);
      break;
    case "stuck":
      metrics.stuck(said.shard, said.isStuck);
      break;
    case "error":
      onError(said.error);
  }
}
