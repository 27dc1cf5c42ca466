import { maintainPartitions } from "../metering/partitions.ts";
import type { Context } from "./context.ts";
import { openEmbedded } from "./embedded.ts";

/** Make the partitions of events that are to come, and remove those that are not kept any longer. */
export async function partitions({ config, now, print }: Context): Promise<void> {
  const { database, dataDir, eventsKeepMonths: keepMonths } = config;
  await using stack = new AsyncDisposableStack();
  const url = database?.migrateUrl ?? (await openEmbedded(dataDir, stack)).urls.owner;
  const { made, dropped, kept } = await maintainPartitions({ url, keepMonths, now: now() });
  print(`Made ${made} partitions`);
  for (const month of dropped) {
    print(`Removed the events of ${month}`);
  }
  if (kept !== "") {
    print(`Kept the events of ${kept}`);
  }
}
