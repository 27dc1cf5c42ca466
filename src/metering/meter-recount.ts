import type { Tx } from "../db/pool.ts";
import type { Turn } from "./meter-build.ts";
import { pageEventsMax, readPage } from "./meter-events.ts";
import { claimRecount, deleteRecount, updateRecount } from "./meter-recount-store.ts";
import { readyMeter, sumKept } from "./meter-rollup.ts";
import { touchEvents } from "./meter-store.ts";
import { addSums } from "./meter-sums.ts";

const quarterMs = 15 * 60_000;

/**
 * Read a page of a quarter of an hour from which an event was taken, and find what is now its least, greatest, latest
 * and different values. True: there may be more.
 *
 * Each of these may be told of an event any number of times, by this or by a projector: so pages are transactions of
 * their own, events may be added meanwhile, and the quarter is done once its last page is read.
 */
export async function recountNextMeter(
  tx: Tx,
  turn: Turn,
  eventsMax = pageEventsMax,
): Promise<boolean> {
  // As who builds a meter does.
  await touchEvents(tx);
  const recount = (await claimRecount(tx, turn.after)) ?? (await claimRecount(tx, ""));
  if (recount === null) {
    return false;
  }
  turn.after = recount.meter.id;
  const { meter, mode, bucketMs, after } = recount;
  const { account_id: accountId, side } = meter;
  const range = { accountId, side, mode, startMs: bucketMs, endMs: bucketMs + quarterMs };
  const { events, isDone } = await readPage(tx, range, { after, size: eventsMax });
  const kept = events.filter(({ isVoided }) => !isVoided);
  const found = await sumKept(tx, readyMeter(meter), kept);
  // How many there are, and their total, is known.
  const known = { events: 0, skipped: 0, total: null };
  await addSums(
    tx,
    found.map((sum) => ({ ...sum, sums: { ...sum.sums, ...known } })),
  );
  const last = events.at(-1);
  if (isDone || last === undefined) {
    await deleteRecount(tx, recount);
  } else {
    await updateRecount(tx, recount, last);
  }
  return true;
}
