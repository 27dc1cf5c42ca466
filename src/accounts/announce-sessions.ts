import type { Tx } from "../db/pool.ts";
import type { Announcer } from "../db/trust.ts";

/** Sessions that one announcement names. Nothing else limits how many a person has. */
const announcedMax = 5_000;

/** Announce that sessions are over. Returns the last epoch, for which the caller waits after the commit. */
export async function announceSessions(
  tx: Tx,
  { announce }: Pick<Announcer, "announce">,
  ids: readonly string[],
): Promise<bigint> {
  let epoch = await announce(tx, "session", ids.slice(0, announcedMax));
  for (let first = announcedMax; first < ids.length; first += announcedMax) {
    epoch = await announce(tx, "session", ids.slice(first, first + announcedMax));
  }
  return epoch;
}
