// A client of its own process that records usage whatever happens to the server: it notes what it sends and what was
// acknowledged, and sends again what was not. Started by load-process.ts.
import { setTimeout as sleep } from "node:timers/promises";
import { type Door, openDoors } from "./load-doors.ts";
import { type Market, type Numbered, toEvent } from "./load-events.ts";
import { openLoadLog } from "./load-log.ts";
import { seeded } from "./seeded.ts";

/** What to send, to whom. */
export interface LoadJob {
  /** Servers of the same database. */
  urls: readonly string[];
  logFile: string;
  market: Market;
  seed: number;
  /** Calls at once. */
  workers: number;
  batchMax: number;
  pauseMs: number;
}

/** What it says now and then. */
export interface LoadProgress {
  /** Batches that were acknowledged so far. */
  acknowledged: number;
  /** When the one of them that was sent last was sent, in milliseconds since the epoch. */
  latestSentMs: number;
  /** Batches that were not, for one reason or another. */
  failed: number;
}

/** How long it waits for the next acknowledgement when it shall end. */
const drainMsMax = 60_000;
const [duplicates, conflicts, refusals, heldBack, givenUp] = [0.02, 0.01, 0.01, 0.1, 0.02];
/** How many batches take another way than the usual one. */
const otherDoors = 0.3;

if (import.meta.main) {
  await run(JSON.parse(process.argv[2] ?? "{}"));
}

async function run(job: LoadJob): Promise<void> {
  const random = seeded(job.seed);
  const log = openLoadLog(job.logFile);
  const servers = job.urls.map((url) => openDoors(url, job.market.token));
  const progress: LoadProgress = { acknowledged: 0, latestSentMs: 0, failed: 0 };
  /** Batches that are to be sent later than others: held back, or not acknowledged. */
  const waiting: Numbered[][] = [];
  let [next, batches, isStopping, latestMs] = [0, 0, false, 0];
  let failure: unknown;
  process.on("message", () => {
    isStopping = true;
    latestMs = performance.now();
  });
  // Whoever started it is gone.
  process.on("disconnect", () => process.exit(1));

  function newBatch(): Numbered[] {
    const batch = Array.from({ length: 1 + Math.floor(random() * job.batchMax) }, () => {
      const chance = random();
      const earlier = Math.floor(random() * next);
      if (chance < duplicates) {
        return { n: earlier, variant: 0 };
      }
      return chance < duplicates + conflicts ? { n: earlier, variant: 1 } : fresh();
    });
    return batch
      .map((event) => ({ event, at: random() }))
      .sort((a, b) => a.at - b.at)
      .map(({ event }) => event);
  }

  function fresh(): Numbered {
    next += 1;
    return { n: next - 1, variant: 0 };
  }

  async function send(door: Door, events: Numbered[]): Promise<void> {
    batches += 1;
    const batch = batches;
    log.sends(batch, events);
    const sentMs = Date.now();
    try {
      await door(events.map((event) => toEvent(job.market, event)));
    } catch (error) {
      failure = error;
      progress.failed += 1;
      process.send?.(progress);
      // Some are never sent again: whether they count, nobody knows.
      if (random() >= givenUp) {
        waiting.push(events);
      }
      await sleep(50);
      return;
    }
    log.acknowledged(batch);
    latestMs = performance.now();
    progress.acknowledged += 1;
    progress.latestSentMs = Math.max(progress.latestSentMs, sentMs);
    process.send?.(progress);
  }

  async function work(): Promise<void> {
    while (!isStopping || (waiting.length > 0 && performance.now() < latestMs + drainMsMax)) {
      const { atomic, others } = pick(servers, random);
      const again = isStopping || random() < 0.5 ? waiting.shift() : undefined;
      if (again === undefined && random() < refusals) {
        await expectRefusal(atomic, job.market);
      } else if (again === undefined && random() < heldBack) {
        waiting.push(newBatch());
      } else {
        await send(random() < otherDoors ? pick(others, random) : atomic, again ?? newBatch());
      }
      await sleep(isStopping ? 0 : random() * 2 * job.pauseMs);
    }
  }

  await Promise.all(Array.from({ length: job.workers }, work));
  log.close();
  process.disconnect();
  if (waiting.length > 0) {
    console.error(`${waiting.length} batches wait, the last one failed with`, failure);
    process.exit(3);
  }
  process.exit(0);
}

/** A batch with an event of nobody is refused as a whole. Ends the process when it is not. */
async function expectRefusal(atomic: Door, market: Market): Promise<void> {
  const good = toEvent(market, { n: 0, variant: 9 });
  const bad = { ...good, accountId: `acc_${"v".repeat(26)}` };
  try {
    await atomic([good, bad]);
  } catch {
    return;
  }
  process.stderr.write("a batch with an event of nobody was taken\n");
  process.exit(4);
}

function pick<T>(list: readonly T[], random: () => number): T {
  const item = list[Math.floor(random() * list.length)];
  if (item === undefined) {
    throw new Error("Cannot send: there is no server");
  }
  return item;
}
