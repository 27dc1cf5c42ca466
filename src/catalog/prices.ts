import type { Database } from "../db/database.ts";
import type { Memory } from "../db/memory.ts";
import type { Trust } from "../db/trust.ts";
import { listNewestPrices, type PriceRow } from "./store.ts";

/** APIs whose prices are remembered. One takes less than 500 bytes. */
const pricesMax = 50_000;

/** What keeps the memory of prices true. */
export const priceTopic = "price";

/**
 * Remember the newest prices of APIs, by the API's id. Whoever gives an API a new price announces the id under
 * `priceTopic`.
 */
export function rememberPrices({ db, trust }: { db: Database; trust: Trust }): Memory<PriceRow> {
  return trust.remember<PriceRow>(priceTopic, {
    entriesMax: pricesMax,
    load: async (apiIds) => {
      const rows = await db.systemTransaction((tx) => listNewestPrices(tx, apiIds));
      return new Map(rows.map((row) => [row.id, row]));
    },
  });
}
