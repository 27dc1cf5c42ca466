import { sql } from "slonik";
import { z } from "zod";
import { nothing, type Queries, type Tx } from "../db/pool.ts";

// Versions of prices. They never change.

const versionRow = z.object({
  version: z.number(),
  created_at: z.number(),
  call_nanos: z.bigint(),
  fee_basis_points: z.number(),
  sheet: z.string(),
});

/** A version of an API's price. */
export type VersionRow = z.infer<typeof versionRow>;

/** List the versions of a published API's price, newest first, before the given one (zero: from the newest). */
export function listVersions(
  db: Queries,
  { apiId, before, limit }: { apiId: string; before: number; limit: number },
): Promise<readonly VersionRow[]> {
  return db.any(sql.type(versionRow)`
    select version, created_at, call_nanos, fee_basis_points, sheet from api_prices
    where (account_id, api_id) in (
      select account_id, id from apis where id = ${apiId} and state = 'published'
    ) and (${before}::int4 = 0 or version < ${before}::int4)
    order by version desc limit ${limit}
  `);
}

/** Give an API a new price version, unless the newest one is the same. */
export async function insertPrice(
  tx: Tx,
  price: {
    accountId: string;
    apiId: string;
    callNanos: bigint;
    feeBasisPoints: number;
    sheet: string;
  },
): Promise<void> {
  await tx.query(sql.type(nothing)`
    insert into api_prices (account_id, api_id, version, call_nanos, fee_basis_points, sheet)
    select account_id, api_id, version + 1, ${price.callNanos}, ${price.feeBasisPoints}, ${price.sheet}
    from api_prices as newest
    where account_id = ${price.accountId} and api_id = ${price.apiId}
      and version = (
        select max(version) from api_prices
        where account_id = ${price.accountId} and api_id = ${price.apiId}
      )
      and (call_nanos, fee_basis_points, sheet) is distinct from
        (${price.callNanos}::int8, ${price.feeBasisPoints}::int4, ${price.sheet}::text)
  `);
}
