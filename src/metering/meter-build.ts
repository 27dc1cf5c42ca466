import assert from "node:assert";
import type { Tx } from "../db/pool.ts";
import { listConsumed, listServed, pageEventsMax } from "./meter-events.ts";
import { addKept, readyMeter } from "./meter-rollup.ts";
import {
  claimUnfinishedMeter,
  deleteGroups,
  deleteRecounts,
  deleteRollups,
  deleteUniques,
  holdProjectors,
  removeMeter,
  startMeter,
  touchEvents,
  type UnfinishedMeter,
  updateBuilt,
} from "./meter-store.ts";

/** Rows that one round clears away of each table. */
const clearedRowsMax = 10_000;

/** Whose turn it was: the next is another meter's, also when the work on the last one failed. */
export interface Turn {
  /** The id of a meter. Empty before the first. */
  after: string;
}

/**
 * Work on one meter that is new or deleted, as far as one transaction goes. True: there may be more to do.
 *
 * The lock on the meter's row makes it the only one for the meter, and holds off voids while it reads.
 */
export async function buildNextMeter(tx: Tx, turn: Turn): Promise<boolean> {
  // Whoever removes old events holds the meters after the events: in the other order they would wait in a ring.
  await touchEvents(tx);
  const meter =
    (await claimUnfinishedMeter(tx, turn.after)) ?? (await claimUnfinishedMeter(tx, ""));
  if (meter === null) {
    return false;
  }
  turn.after = meter.id;
  if (meter.state === "deleted") {
    await clearMeter(tx, meter);
  } else if (meter.start_positions === null) {
    await beginMeter(tx, meter);
  } else {
    await buildMeter(tx, { ...meter, start_positions: meter.start_positions });
  }
  return true;
}

function keyOf({ account_id: accountId, id: meterId }: UnfinishedMeter) {
  return { accountId, meterId };
}

/** With every projector held, each event is either applied, and counted here, or counted by the projector. */
async function beginMeter(tx: Tx, meter: UnfinishedMeter): Promise<void> {
  const cursors = await holdProjectors(tx);
  const starts: bigint[] = [];
  for (const { shard, position } of cursors) {
    starts[shard] = position;
  }
  await startMeter(
    tx,
    keyOf(meter),
    Array.from(starts, (position) => position ?? 0n),
  );
}

async function buildMeter(
  tx: Tx,
  meter: UnfinishedMeter & { start_positions: bigint[] },
): Promise<void> {
  const { account_id: accountId, start_positions: starts, built_to: after } = meter;
  const upTo = starts.reduce((a, b) => (a > b ? a : b), 0n);
  const list = meter.side === "consumer" ? listConsumed : listServed;
  const read = await list(tx, { accountId, after, upTo });
  const isDone = read.length < pageEventsMax;
  // The page may end within a position: what is there of the last one comes again in the next.
  const last = read.at(-1)?.position ?? upTo;
  const events = isDone ? read : read.filter(({ position }) => position < last);
  assert(
    isDone || events.length > 0,
    "Cannot build a meter: a position has more events than a page",
  );
  const builtTo = isDone ? upTo : (events.at(-1)?.position ?? last);
  const before = events.filter(
    ({ shard, position, isVoided }) => !isVoided && position <= (starts[shard] ?? 0n),
  );
  await addKept(tx, readyMeter({ ...meter, state: "building" }), before);
  await updateBuilt(tx, keyOf(meter), { builtTo, isDone });
}

/** The last rows go when no projector is at work: one that still knew the meter adds no more after that. */
async function clearMeter(tx: Tx, meter: UnfinishedMeter): Promise<void> {
  const key = keyOf(meter);
  if (
    (await deleteUniques(tx, key, clearedRowsMax)) ||
    (await deleteRollups(tx, key, clearedRowsMax))
  ) {
    return;
  }
  await holdProjectors(tx);
  const isLeft =
    (await deleteUniques(tx, key, clearedRowsMax)) ||
    (await deleteRollups(tx, key, clearedRowsMax));
  if (!isLeft) {
    await deleteGroups(tx, key);
    await deleteRecounts(tx, key);
    await removeMeter(tx, key);
  }
}
