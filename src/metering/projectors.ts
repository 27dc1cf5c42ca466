import { performance } from "node:perf_hooks";
import type { Database } from "../db/database.ts";
import { createSemaphore, runEvenIfBusy, type Semaphore } from "../lib/semaphore.ts";
import type { Counts } from "./projections.ts";
import { projectShard, type Round } from "./projector.ts";
import {
  claimShard,
  releaseShard,
  renewShard,
  type ShardLease,
  shardLeaseMs,
} from "./shard-lease.ts";

/** A shard that another process has is asked for this often. */
const claimMs = 1_000;
/** A shard where nothing happens is held on to this often. */
const beatMs = 1_500;
/** Positions of other shards are passed by this often. */
const passMs = 500;
/** The rest after a round that took all there was: so long as it took, times this, and at most so long. */
const restFactor = 2;
const restMsMax = 50;
/**
 * By how busy calls keep the process, how long a round and its rest take together, if that is longer: what costs the same
 * for few events as for many comes the more seldom, the less time there is to spare. A long round, for which that
 * matters little, is followed by the next soon.
 */
const busyPeriods = [
  { from: 0.7, periodMs: 300 },
  { from: 0.25, periodMs: 200 },
];
/** While calls keep the process so busy, shards that are not behind take turns, and one waits so long for its own. */
const turnsFrom = 0.25;
const turnMsMax = 200;
const pollMsMin = 25;
const pollMsMax = 250;
const backOffMsMin = 50;
const backOffMsMax = 2_000;
/** So many rounds of a single entry, by when a fault that passes has passed. */
const failuresOfStuck = 10;
/** Entries of a round: few while there is little to do, so that it is soon over. */
const entriesMin = 500;
const entriesMost = 5_000;

/** Where what is applied is told to those who wait for it. */
export interface Applications {
  note(shard: number, position: bigint, accounts: readonly string[]): void;
}

/** What is counted of the projectors. */
export interface ProjectorMetrics {
  /** A shard was claimed, or lost. */
  held(shard: number, isHeld: boolean): void;
  applied(shard: number, round: { position: bigint; counts: Counts; seconds: number }): void;
  failed(shard: number): void;
  /** A shard goes no further, though single entries were tried again and again; or it does again. */
  stuck(shard: number, isStuck: boolean): void;
}

/** The projectors of a process. */
export interface Projectors {
  /** Look for new rows at once. */
  wake(): void;
  /** Apply what there is, as far as the time goes, and let others have the shards. */
  stop(options?: { deadlineMs: number }): Promise<void>;
}

interface Deps {
  db: Pick<Database, "systemTransaction">;
  progress: Applications;
  shards: number;
  /** Names the process. A UUID. */
  holder: string;
  debtLimitNanos: bigint;
  now(): Date;
  onError(error: unknown): void;
  metrics: ProjectorMetrics;
  /** The part of its time that calls keep the process busy, from 0 to 1. Undefined: none. */
  utilization?: () => number;
}

/**
 * Apply the journal in the background: each shard that this process can claim, round after round.
 *
 * A round costs much the same for one event as for a hundred: after one that took all there was, more may come
 * together. A round that fails is tried again with fewer entries, after a pause that grows up to 2 s.
 */
export function startProjectors(deps: Deps): Projectors {
  const turn = createSemaphore({ permits: 1, waitersMax: deps.shards, waitMs: turnMsMax });
  const shared = { ...deps, turn };
  const loops = Array.from({ length: deps.shards }, (_, shard) => startShard(shared, shard));
  return {
    wake() {
      for (const loop of loops) {
        loop.wake();
      }
    },
    async stop({ deadlineMs } = { deadlineMs: 0 }) {
      await Promise.all(loops.map((loop) => loop.stop(deadlineMs)));
    },
  };
}

/** What the shards of a process share. */
interface Shared extends Deps {
  turn: Semaphore;
}

function startShard(deps: Shared, shard: number) {
  // New rows end the wait for rows, and nothing but that: not the pause after a failure, nor before another claim.
  const rows = createBell();
  const end = createBell();
  let stopAt = Number.POSITIVE_INFINITY;
  const isStopping = () => stopAt !== Number.POSITIVE_INFINITY;
  const state: State = {
    lease: null,
    beatAt: 0,
    passAt: 0,
    pollMs: pollMsMin,
    backOffMs: backOffMsMin,
    entries: entriesMin,
    isBehind: false,
    failures: 0,
    position: null,
  };

  async function run() {
    for (;;) {
      const { pauseMs, why } = await step(deps, shard, state);
      // At the end one pass over what is there is enough.
      const isOver = isStopping() && pauseMs > 0 && why !== "rest";
      if (isOver || performance.now() >= stopAt) {
        break;
      }
      if (pauseMs > 0 && !isStopping()) {
        await (why === "idle" ? rows : end).wait(pauseMs);
      }
    }
    await release(deps, state);
  }

  const running = run();
  return {
    wake: () => rows.ring(),
    async stop(deadlineMs: number) {
      stopAt = performance.now() + deadlineMs;
      rows.ring();
      end.ring();
      await running;
    },
  };
}

interface State {
  lease: ShardLease | null;
  /** When to give a sign of life. */
  beatAt: number;
  /** When to pass by positions of other shards. */
  passAt: number;
  pollMs: number;
  backOffMs: number;
  entries: number;
  /** The last round left some. */
  isBehind: boolean;
  /** In a row. */
  failures: number;
  /** The last one that was applied here. */
  position: bigint | null;
}

interface Pause {
  pauseMs: number;
  /** Idle: all is applied, and the pause is over once there is more. Rest: there may be more already. */
  why: "idle" | "rest" | "failed" | "unheld";
}

const unheld: Pause = { pauseMs: claimMs, why: "unheld" };

/** Do the next thing for a shard. Returns what to wait for. Never throws. */
async function step(deps: Shared, shard: number, state: State): Promise<Pause> {
  try {
    const lease = state.lease ?? (await claim(deps, shard, state));
    const pause = lease === null ? unheld : await project(deps, lease, state);
    state.backOffMs = backOffMsMin;
    if (state.failures > 0) {
      state.failures = 0;
      deps.metrics.stuck(shard, false);
    }
    return pause;
  } catch (error) {
    deps.metrics.failed(shard);
    state.failures += 1;
    const isStuck = state.entries === 1 && state.failures >= failuresOfStuck;
    deps.metrics.stuck(shard, isStuck);
    deps.onError(isStuck ? stuckError(shard, state, error) : error);
    const pauseMs = state.backOffMs;
    state.backOffMs = Math.min(pauseMs * 2, backOffMsMax);
    state.entries = Math.max(1, state.entries >>> 1);
    return { pauseMs, why: "failed" };
  }
}

function stuckError(shard: number, { failures, position }: State, cause: unknown): Error {
  const after = position === null ? "" : ` after position ${position}`;
  const message = `Cannot apply shard ${shard}${after}: ${failures} rounds in a row failed`;
  return new Error(message, { cause });
}

async function claim(
  { db, holder, metrics }: Deps,
  shard: number,
  state: State,
): Promise<ShardLease | null> {
  const wanted = { shard, holder, leaseMs: shardLeaseMs };
  state.lease = await db.systemTransaction((tx) => claimShard(tx, wanted));
  if (state.lease !== null) {
    state.beatAt = performance.now() + beatMs;
    metrics.held(shard, true);
  }
  return state.lease;
}

async function project(deps: Shared, lease: ShardLease, state: State): Promise<Pause> {
  const { metrics, progress } = deps;
  const utilization = deps.utilization?.() ?? 0;
  const work = () => doRound(deps, lease, state);
  const takesTurn = utilization > turnsFrom && !state.isBehind;
  const { round, ms } = await (takesTurn ? runEvenIfBusy(deps.turn, work) : work());
  state.position = round.position;
  if (round.problem !== undefined) {
    deps.onError(new Error(round.problem));
  }
  if (round.outcome === "more") {
    state.beatAt = performance.now() + beatMs;
    state.passAt = performance.now() + passMs;
    state.pollMs = pollMsMin;
    metrics.applied(lease.shard, { ...round, seconds: ms / 1_000 });
    progress.note(lease.shard, round.position, round.accounts);
    const done = doneIn(round);
    state.isBehind = done >= state.entries;
    if (state.isBehind) {
      state.entries = Math.min(state.entries * 2, entriesMost);
      return { pauseMs: 0, why: "rest" };
    }
    const periodMs = busyPeriods.find(({ from }) => utilization > from)?.periodMs ?? 0;
    const restMs = done === 0 ? 0 : Math.min(Math.max(restMsMax, periodMs - ms), ms * restFactor);
    return { pauseMs: restMs, why: "rest" };
  }
  const isHeld = round.outcome === "idle" && (await beat(deps, lease, state));
  if (!isHeld) {
    state.lease = null;
    metrics.held(lease.shard, false);
    return unheld;
  }
  state.entries = entriesMin;
  state.pollMs = Math.min(state.pollMs * 2, pollMsMax);
  return { pauseMs: state.pollMs, why: "idle" };
}

/** Do a round. Returns also how long it took. */
async function doRound(
  { db, debtLimitNanos, now }: Deps,
  lease: ShardLease,
  { entries, passAt }: State,
): Promise<{ round: Round; ms: number }> {
  const begun = performance.now();
  const passesBy = begun >= passAt;
  const options = { entriesMax: entries, debtLimitNanos, passesBy, now: now() };
  const round = await db.systemTransaction((tx) => projectShard(tx, lease, options));
  return { round, ms: performance.now() - begun };
}

function doneIn({ counts }: Round): number {
  return counts.events + counts.duplicates + counts.quarantined;
}

async function beat({ db }: Deps, lease: ShardLease, state: State): Promise<boolean> {
  if (performance.now() < state.beatAt) {
    return true;
  }
  state.beatAt = performance.now() + beatMs;
  return db.systemTransaction((tx) => renewShard(tx, lease, shardLeaseMs));
}

async function release({ db, metrics, onError }: Deps, { lease }: State): Promise<void> {
  if (lease === null) {
    return;
  }
  try {
    await db.systemTransaction((tx) => releaseShard(tx, lease));
  } catch (error) {
    // It ends by itself.
    onError(error);
  }
  metrics.held(lease.shard, false);
}

/** A pause that can be ended. A ring while nobody waits ends the next one. */
function createBell() {
  let isRung = false;
  let wake: (() => void) | undefined;
  let timer: NodeJS.Timeout | undefined;
  return {
    ring() {
      isRung = true;
      wake?.();
    },
    async wait(ms: number): Promise<void> {
      if (!isRung) {
        await new Promise<void>((resolve) => {
          wake = resolve;
          timer = setTimeout(resolve, ms);
        });
        clearTimeout(timer);
        wake = undefined;
      }
      isRung = false;
    },
  };
}
